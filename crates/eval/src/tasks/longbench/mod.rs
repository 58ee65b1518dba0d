//! LongBench: questions about long texts, whose answers the model writes.
//!
//! Bai et al. 2023, version 1, after the authors' programs `pred.py`, `metrics.py` and `eval.py` (THUDM/LongBench). Prompts are
//! data: the authors' `dataset2prompt.json` lies beside the items. Data sets whose metrics count Chinese words
//! (multifieldqa_zh, dureader, vcsum) are not read, because there is no segmenter here.

mod answer;
mod dataset;
mod metric;
mod read;
mod report;
mod rouge;
mod similarity;

pub use answer::{LongBenchAnswer, LongBenchSpec, answer_longbench};
pub use dataset::{DATASETS, Dataset, LongBenchCategory};
pub use metric::Metric;
pub use read::{LongBenchItem, LongBenchTask, PromptTemplate, read_longbench};
pub use report::{BUCKETS, DatasetScore, LongBenchReport};
