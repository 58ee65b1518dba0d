//! Questions about stories, made by the same grammar: tasks for the demo model. They are no standard task and compare with none.

use crate::{
    Split,
    genres::{riddle::RIDDLES, scene::SPOTS},
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

/// A room with things in it, and the question where one of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The room.
    pub context: String,
    /// The question, and the answer as far as it says nothing yet.
    pub question: String,
    /// The place.
    pub answer: String,
}

/// An endless list of items: in turn the last sentence of a story among those of three others, and the place of a thing in a
/// room among three other places of the same room or of others.
///
/// ```
/// let item = fewbit_demo::endings(1).next().unwrap();
/// assert!(item.right < 4 && item.endings.iter().all(|ending| !ending.is_empty()));
/// ```
pub fn endings(seed: u64) -> impl Iterator<Item = Endings> {
    let mut told = stories(seed);
    let mut seen = searches(seed);
    (0..).map(move |index| {
        let mut rng = Rng::for_story(seed, index);
        if index % 2 == 0 {
            last_sentences(&mut told, &mut rng)
        } else {
            places(&seen.next().expect("endless"), &mut rng)
        }
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

fn places(search: &Search, rng: &mut Rng) -> Endings {
    let mut spots: Vec<&str> = SPOTS.iter().copied().filter(|s| *s != search.answer).collect();
    // Places of the same room come first: who does not remember well takes one of them.
    spots.sort_by_key(|spot| !search.context.to_lowercase().contains(spot));
    spots.truncate(3);
    let right = rng.below(4);
    spots.insert(right, &search.answer);
    let (context, begun) = search.question.rsplit_once(" \"").expect("an answer is begun");
    let context = format!("{}\n{context}", search.context);
    let endings = spots.iter().map(|spot| format!("\"{begun} {spot},\"")).collect();
    Endings { context, endings: four(endings), right }
}

/// An endless list of searches in rooms.
///
/// ```
/// let search = fewbit_demo::searches(1).next().unwrap();
/// assert!(search.context.to_lowercase().contains(&search.answer), "{search:?}");
/// ```
pub fn searches(seed: u64) -> impl Iterator<Item = Search> {
    stories(seed).filter_map(|story| {
        let (context, talk) = story.split_once("\n\"Where is the ")?;
        let (thing, rest) = talk.split_once("?\" asked ")?;
        let (who, rest) = rest.split_once(". \"")?;
        let begun = format!("The {thing} is ");
        let (answer, _) = rest.strip_prefix(&begun)?.split_once(",\"")?;
        let question = format!("\"Where is the {thing}?\" asked {who}. \"{}", begun.trim_end());
        Some(Search { context: context.into(), question, answer: answer.into() })
    })
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
    fn a_search_goes_on_as_its_story() {
        let all: Vec<String> = stories(3).take(2000).collect();
        for search in searches(3).take(40) {
            let text = format!("{}\n{} {},\"", search.context, search.question, search.answer);
            assert!(all.iter().any(|story| story.starts_with(&text)), "{text}");
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
