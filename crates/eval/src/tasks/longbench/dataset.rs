//! The data sets of LongBench, with what its programs say of each.

use serde::Serialize;

use super::Metric;

/// A group of data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LongBenchCategory {
    /// Questions about one document.
    SingleDocument,
    /// Questions about several documents.
    MultiDocument,
    /// Summaries.
    Summarization,
    /// Tasks explained by examples in the context.
    FewShot,
    /// Made-up tasks of finding and counting.
    Synthetic,
    /// The next line of a program.
    Code,
}

impl LongBenchCategory {
    /// All of them, in the order of the published tables.
    pub const ALL: [Self; 6] = [
        Self::SingleDocument,
        Self::MultiDocument,
        Self::Summarization,
        Self::FewShot,
        Self::Synthetic,
        Self::Code,
    ];

    /// A name for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleDocument => "single document",
            Self::MultiDocument => "several documents",
            Self::Summarization => "summarization",
            Self::FewShot => "few shots",
            Self::Synthetic => "synthetic",
            Self::Code => "code",
        }
    }
}

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name, which is that of its file.
    pub name: &'static str,
    /// Its category.
    pub category: LongBenchCategory,
    /// How a prediction is scored.
    pub metric: Metric,
    /// Most tokens of a prediction (`dataset2maxlen.json`).
    pub max_new_tokens: usize,
    /// Whether a chat model gets the prompt as a message.
    pub as_message: bool,
    /// Whether only the first line of a prediction counts.
    pub first_line: bool,
}

impl Dataset {
    /// The data set of a name, such as `qasper`.
    pub fn of(name: &str) -> Option<&'static Self> {
        DATASETS.iter().find(|dataset| dataset.name == name)
    }

    /// Whether a line break ends a prediction, which may not begin with it.
    pub(super) fn stops_at_line_break(&self) -> bool {
        self.name == "samsum"
    }
}

/// The data sets in English and code, and of the Chinese ones those whose metrics need no Chinese words.
pub const DATASETS: &[Dataset] = {
    use LongBenchCategory::{
        Code, FewShot, MultiDocument, SingleDocument, Summarization, Synthetic,
    };
    use Metric::{Classification, CodeSimilarity, Count, F1, Retrieval, RetrievalZh, RougeL};
    &[
        dataset("narrativeqa", SingleDocument, F1, 128),
        dataset("qasper", SingleDocument, F1, 128),
        dataset("multifieldqa_en", SingleDocument, F1, 64),
        dataset("hotpotqa", MultiDocument, F1, 32),
        dataset("2wikimqa", MultiDocument, F1, 32),
        dataset("musique", MultiDocument, F1, 32),
        dataset("gov_report", Summarization, RougeL, 512),
        dataset("qmsum", Summarization, RougeL, 512),
        dataset("multi_news", Summarization, RougeL, 512),
        dataset("trec", FewShot, Classification, 64),
        dataset("triviaqa", FewShot, F1, 32),
        dataset("samsum", FewShot, RougeL, 128),
        dataset("lsht", FewShot, Classification, 64),
        dataset("passage_count", Synthetic, Count, 32),
        dataset("passage_retrieval_en", Synthetic, Retrieval, 32),
        dataset("passage_retrieval_zh", Synthetic, RetrievalZh, 32),
        dataset("lcc", Code, CodeSimilarity, 64),
        dataset("repobench-p", Code, CodeSimilarity, 64),
    ]
};

const fn dataset(
    name: &'static str,
    category: LongBenchCategory,
    metric: Metric,
    max_new_tokens: usize,
) -> Dataset {
    let few_shot = matches!(category, LongBenchCategory::FewShot);
    let as_message = !few_shot && !matches!(category, LongBenchCategory::Code);
    Dataset { name, category, metric, max_new_tokens, as_message, first_line: few_shot }
}
