//! The demo model of fewbit and the text that made it.
//!
//! Two things live here, and nothing in them was fetched from anywhere:
//!
//! - a generator of little stories from a grammar of our own ([`stories`], [`text`]), with separate
//!   streams for training, calibration, validation and test, and of questions about them ([`endings`], [`recalls`], [`questions`]);
//! - a Llama-style model of 2.6 million parameters that was trained on the training stream, embedded
//!   as a Hugging Face folder ([`write_model`], [`files`]). Its card is the README of this crate; one
//!   command, the example `train-demo`, makes it again.
//!
//! ```
//! use fewbit_demo::{Split, text};
//!
//! let calibration = text(Split::Calibration, 10_000);
//! assert!(calibration.len() >= 10_000);
//! assert_eq!(calibration, text(Split::Calibration, 10_000), "the same for ever");
//! assert_ne!(calibration, text(Split::Test, 10_000));
//! ```
//!
//! Modules: `genres` holds the grammar, one kind of story a file; `teller` the template language it is
//! written in; `tasks` the questions; `cast` and `lexicon` the characters and the words; `model` the embedded files.

mod cast;
mod genres;
mod lexicon;
mod model;
mod rng;
mod tasks;
mod teller;

pub use lexicon::remembered;
pub use model::{files, write_model};
pub use tasks::{Endings, Question, Recall, endings, questions, recalls};

use rng::Rng;
use teller::Teller;

/// What stands between two stories in [`text`]: the model's end-of-text token on a line of its own.
///
/// The tokenizer takes the line breaks around it into the token, so that a story's first token follows
/// the end-of-text token directly.
pub const SEPARATOR: &str = "\n<|endoftext|>\n";

/// The four streams of text. Each has its own seed, so none continues or repeats another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the demo model was trained on.
    Train,
    /// For the Hessians and statistics of a quantizer.
    Calibration,
    /// For choosing between settings.
    Validation,
    /// For the numbers that are reported in the end.
    Test,
}

impl Split {
    /// All splits, in the order in which they are used.
    pub const ALL: [Self; 4] = [Self::Train, Self::Calibration, Self::Validation, Self::Test];

    /// The seed of the split's stream, to be given to [`stories`].
    #[must_use]
    pub const fn seed(self) -> u64 {
        match self {
            Self::Train => 1001,
            Self::Calibration => 2002,
            Self::Validation => 3003,
            Self::Test => 4004,
        }
    }

    /// The name in lower case: `train`, `calibration`, `validation`, `test`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Calibration => "calibration",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// An endless stream of stories; the same seed gives the same stories on every machine.
///
/// A story is some paragraphs of plain ASCII text, a line each, without a line break at the end.
///
/// ```
/// let story = fewbit_demo::stories(5).nth(3).unwrap();
/// assert!(story.len() > 100 && story.is_ascii());
/// ```
pub fn stories(seed: u64) -> impl Iterator<Item = String> {
    (0..).map(move |index| {
        let mut teller = Teller::new(Rng::for_story(seed, index));
        genres::tell(&mut teller);
        teller.finish()
    })
}

/// Whole stories of a split from its beginning, joined by [`SEPARATOR`], of at least `bytes` bytes.
///
/// A longer text of the same split begins with the shorter one.
///
/// ```
/// use fewbit_demo::{SEPARATOR, Split, text};
///
/// let long = text(Split::Validation, 5_000);
/// assert!(long.starts_with(&text(Split::Validation, 1_000)));
/// assert!(long.split(SEPARATOR).count() > 3);
/// ```
#[must_use]
pub fn text(split: Split, bytes: usize) -> String {
    let mut out = String::with_capacity(bytes + 2048);
    for story in stories(split.seed()) {
        if !out.is_empty() {
            out.push_str(SEPARATOR);
        }
        out.push_str(&story);
        if out.len() >= bytes {
            break;
        }
    }
    out
}
