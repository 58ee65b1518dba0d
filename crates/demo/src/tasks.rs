//! Questions about stories, made by the same grammar: tasks for the demo model. They are no standard task and compare with none.

use crate::{
    Split,
    genres::riddle::RIDDLES,
    lexicon::{number, rule},
    rng::Rng,
    stories,
};

/// The beginning of a story and four ways to go on, one of which is the story's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endings {
    /// The story so far.
    pub context: String,
    /// Four sentences; each would follow after a space.
    pub endings: [String; 4],
    /// Index of the story's own.
    pub right: usize,
}

/// A question with four answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the question is about: `calendar`, `numbers` or `riddles`.
    pub subject: &'static str,
    /// The question.
    pub question: String,
    /// Four answers, all different.
    pub choices: [String; 4],
    /// Index of the right one.
    pub right: usize,
}

/// A story up to a word that it has used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    /// The story before its last paragraph.
    pub context: String,
    /// The last paragraph up to the word.
    pub begun: String,
    /// The word; it would follow after a space.
    pub word: &'static str,
    /// Three other words of the same kind; those that the story has used come first.
    pub others: [&'static str; 3],
}

/// An endless list of items: in turn the last sentence of a story among those of three others, and a word that the story has used
/// before among three others ([`recalls`]).
///
/// ```
/// let item = fewbit_demo::endings(1).next().unwrap();
/// assert!(item.right < 4 && item.endings.iter().all(|ending| !ending.is_empty()));
/// ```
pub fn endings(seed: u64) -> impl Iterator<Item = Endings> {
    let mut told = stories(seed);
    let mut recalled = recalls(seed);
    (0..).map(move |index| {
        let mut rng = Rng::for_story(seed, index);
        if index % 2 == 0 {
            return last_sentences(&mut told, &mut rng);
        }
        let Recall { context, begun, word, others } = recalled.next().expect("endless");
        let mut endings = others.map(String::from).to_vec();
        let right = rng.below(4);
        endings.insert(right, word.into());
        Endings { context: format!("{context}\n{begun}"), endings: four(endings), right }
    })
}

fn last_sentences(told: &mut impl Iterator<Item = String>, rng: &mut Rng) -> Endings {
    let mut split = || loop {
        let story = told.next().expect("endless");
        let last_line = story.rfind('\n').map_or(0, |at| at + 1);
        // A sentence of the last paragraph that does not begin it.
        if let Some(at) = story[last_line..].rfind(". ").map(|at| last_line + at + 1) {
            return (story[..at].to_string(), story[at + 1..].to_string());
        }
    };
    let (context, own) = split();
    let mut others: Vec<String> = vec![];
    while others.len() < 3 {
        let (_, other) = split();
        if other != own && !others.contains(&other) {
            others.push(other);
        }
    }
    let right = rng.below(4);
    others.insert(right, own);
    Endings { context, endings: four(others), right }
}

/// Kinds of words that a story remembers, besides the names of people.
const REMEMBERED: [&str; 6] = ["town", "animal", "colour", "toy", "treasure", "fruit"];

/// An endless list of stories, each up to the last word of it that stands in an earlier paragraph too.
///
/// ```
/// let recall = fewbit_demo::recalls(1).next().unwrap();
/// assert!(recall.context.contains(recall.word));
/// ```
pub fn recalls(seed: u64) -> impl Iterator<Item = Recall> {
    stories(seed).filter_map(|story| {
        let (context, last) = story.rsplit_once('\n')?;
        let mentioned = |kind: &'static str| {
            let place = move |&word: &&'static str| Some((last_mention(last, word)?, word, kind));
            rule(kind).iter().filter_map(place)
        };
        let earlier = |(_, word, _): &(usize, &str, &str)| last_mention(context, word).is_some();
        let (at, word, kind) = REMEMBERED
            .into_iter()
            .flat_map(mentioned)
            .filter(earlier)
            .max_by_key(|found| found.0)?;
        let plain = |other: &&&str| **other != word && other.chars().all(char::is_alphabetic);
        let mut others: Vec<&str> = rule(kind).iter().filter(plain).copied().collect();
        others.sort_by_key(|other| last_mention(&story, other).is_none());
        let others = [*others.first()?, *others.get(1)?, *others.get(2)?];
        Some(Recall { context: context.into(), begun: last[..at].into(), word, others })
    })
}

/// Where the space before the last mention of a word stands.
fn last_mention(text: &str, word: &str) -> Option<usize> {
    let found = text.rmatch_indices(word).map(|(at, _)| at);
    let whole = |&at: &usize| {
        let after = text[at + word.len()..].chars().next();
        text[..at].ends_with(' ') && !after.is_some_and(char::is_alphanumeric)
    };
    found.into_iter().find(whole).map(|at| at - 1)
}

/// An endless list of questions, in turn about the calendar, numbers and riddles.
///
/// The demo model never saw a letter name a choice: it can only guess.
pub fn questions(split: Split) -> impl Iterator<Item = Question> {
    (0..).map(move |index| {
        let mut rng = Rng::for_story(split.seed() ^ 0x51E5, index);
        let (subject, question, answers): (_, String, Vec<String>) = match index % 3 {
            0 => calendar(&mut rng),
            1 => sums(&mut rng),
            _ => riddle(&mut rng),
        };
        let mut choices: Vec<String> = vec![];
        for answer in answers {
            if !choices.contains(&answer) && choices.len() < 4 {
                choices.push(answer);
            }
        }
        let own = choices.remove(0);
        let right = rng.below(4);
        choices.insert(right, own);
        Question { subject, question, choices: four(choices), right }
    })
}

/// The right answer first.
fn calendar(rng: &mut Rng) -> (&'static str, String, Vec<String>) {
    let list = if rng.below(2) == 0 { rule("month") } else { rule("day") };
    let at = rng.below(list.len());
    let answers = (1..5).map(|step| list[(at + step) % list.len()].to_string()).collect();
    ("calendar", format!("What comes after {}?", list[at]), answers)
}

fn sums(rng: &mut Rng) -> (&'static str, String, Vec<String>) {
    let (a, b) = (rng.between(2, 12), rng.between(2, 12));
    let answers = [0, 1, 2, 3].map(|more| number(a + b + more)).to_vec();
    ("numbers", format!("How much is {} and {}?", number(a), number(b)), answers)
}

fn riddle(rng: &mut Rng) -> (&'static str, String, Vec<String>) {
    let at = rng.below(RIDDLES.len());
    let of = |step: usize| RIDDLES[(at + 5 * step) % RIDDLES.len()];
    let answers = (0..4).map(|step| of(step)[1].to_string()).collect();
    ("riddles", format!("{}. What am I?", of(0)[0]), answers)
}

fn four(texts: Vec<String>) -> [String; 4] {
    texts.try_into().expect("four texts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn endings_have_one_right_answer() {
        let mut rights = [0; 4];
        for item in endings(Split::Test.seed()).take(400) {
            assert_eq!(item.endings.iter().collect::<HashSet<_>>().len(), 4, "{item:?}");
            assert!(!item.context.ends_with(' ') && !item.context.is_empty());
            rights[item.right] += 1;
        }
        assert!(rights.iter().all(|&n| n > 60), "{rights:?}");
        assert!(endings(1).take(20).eq(endings(1).take(20)), "the same for ever");
    }

    #[test]
    fn a_recall_goes_on_as_its_story() {
        let all: Vec<String> = stories(3).take(2000).collect();
        for recall in recalls(3).take(100) {
            let text = format!("{}\n{} {}", recall.context, recall.begun, recall.word);
            assert!(all.iter().any(|story| story.starts_with(&text)), "{text}");
            assert!(last_mention(&recall.context, recall.word).is_some());
            let mut words = [recall.others.as_slice(), &[recall.word]].concat();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), 4, "{recall:?}");
        }
    }

    #[test]
    fn questions_have_four_answers() {
        for question in questions(Split::Test).take(300) {
            assert_eq!(question.choices.iter().collect::<HashSet<_>>().len(), 4, "{question:?}");
        }
        let sum = questions(Split::Test).find(|q| q.subject == "numbers").unwrap();
        let [_, _, _, a, _, b] =
            sum.question.trim_end_matches('?').split(' ').collect::<Vec<_>>()[..]
        else {
            panic!("{sum:?}")
        };
        let value = |word: &str| (0..=24).find(|&n| number(n) == word).unwrap();
        assert_eq!(value(&sum.choices[sum.right]), value(a) + value(b));
    }
}
