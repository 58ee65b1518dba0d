//! The people, animals and robots of a story: a name that nobody else in it has, and the right pronouns.

use crate::{lexicon, teller::Teller};

/// What a character is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A boy or a girl.
    Child,
    /// A man or a woman with a trade.
    Adult,
    /// An animal, called by its kind ("the fox") or by a name of its own.
    Animal,
    /// A robot, which is "it".
    Robot,
}

const TRADES: &[&str] = &[
    "baker",
    "farmer",
    "teacher",
    "sailor",
    "gardener",
    "painter",
    "doctor",
    "miller",
    "fisher",
    "carpenter",
    "tailor",
    "cook",
];

impl Teller {
    /// Binds a character under `role`: `{role}` is the name; `.he`, `.him`, `.his`, `.himself` the pronouns;
    /// `.kind` what it is ("girl", "baker", "fox").
    pub(crate) fn cast(&mut self, role: &str, kind: Kind) {
        let female = self.rng().below(2) == 0;
        let names = match (kind, female) {
            (Kind::Robot, _) => "robot name",
            (Kind::Animal, _) => "animal name",
            (_, true) => "girl name",
            (_, false) => "boy name",
        };
        let name = self.fresh(lexicon::rule(names));
        let what = match (kind, female) {
            (Kind::Child, true) => "girl",
            (Kind::Child, false) => "boy",
            (Kind::Robot, _) => "robot",
            (Kind::Adult, _) => self.fresh(TRADES),
            (Kind::Animal, _) => self.fresh(lexicon::rule("animal")),
        };
        let pronouns = match (kind, female) {
            (Kind::Robot, _) => ["it", "it", "its", "itself"],
            (_, true) => ["she", "her", "her", "herself"],
            (_, false) => ["he", "him", "his", "himself"],
        };
        self.set(role, name);
        self.set(&format!("{role}.kind"), what);
        for (form, word) in ["he", "him", "his", "himself"].iter().zip(pronouns) {
            self.set(&format!("{role}.{form}"), word);
        }
    }

    /// An entry that no variable of this story has as its value yet.
    pub(crate) fn fresh<'a>(&mut self, entries: &'a [&'a str]) -> &'a str {
        loop {
            let entry = self.rng().pick(entries);
            if !self.is_taken(entry) {
                return entry;
            }
        }
    }
}
