//! Items of the demo's own, made by the grammar of its stories. They are no standard task; results compare with nothing else.

use std::collections::BTreeMap;

use fewbit::eval::tasks::{
    ChoiceItem, MmluQuestion, MmluSubject,
    longbench::{Dataset, LongBenchCategory, LongBenchItem, LongBenchTask, Metric, PromptTemplate},
};
use fewbit_demo::{Split, endings, questions, recalls};

/// Endings of stories, and words that come back, in the form of HellaSwag.
pub fn hellaswag() -> Vec<ChoiceItem> {
    let item = |e: fewbit_demo::Endings| ChoiceItem {
        context: e.context,
        choices: e.endings.into(),
        gold: e.right,
    };
    endings(Split::Test.seed()).take(200).map(item).collect()
}

/// Small questions in the form of MMLU. The demo model never saw letters name choices: a quarter right is all one can expect.
pub fn mmlu() -> Vec<MmluSubject> {
    let mut subjects: BTreeMap<&str, [Vec<MmluQuestion>; 2]> = BTreeMap::new();
    for (split, n) in [(Split::Validation, 15), (Split::Test, 90)] {
        for q in questions(split).take(n) {
            let question =
                MmluQuestion { question: q.question, choices: q.choices, answer: q.right };
            subjects.entry(q.subject).or_default()[usize::from(split == Split::Test)]
                .push(question);
        }
    }
    let subject =
        |(name, [dev, test]): (&str, [Vec<_>; 2])| MmluSubject::new(name.into(), dev, test);
    subjects.into_iter().map(subject).collect()
}

/// The demo's own data set.
static RECALL: Dataset = Dataset {
    name: "recall",
    category: LongBenchCategory::SingleDocument,
    metric: Metric::F1,
    max_new_tokens: 1,
    as_message: false,
    first_line: true,
};

/// A word that the story has used before, in the form of LongBench. The demo's tokenizer has a token for each such word.
pub fn longbench() -> Vec<LongBenchTask> {
    let item = |recall: fewbit_demo::Recall| LongBenchItem {
        length: recall.context.split_whitespace().count(),
        context: recall.context,
        input: recall.begun,
        answers: vec![recall.word.into()],
        classes: vec![],
    };
    vec![LongBenchTask {
        dataset: &RECALL,
        extended: false,
        items: recalls(Split::Test.seed()).take(100).map(item).collect(),
        prompt: PromptTemplate::parse("{context}\n{input}").expect("a valid template"),
        max_new_tokens: RECALL.max_new_tokens,
    }]
}
