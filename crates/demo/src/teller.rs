//! The story teller: expands templates, keeps what a story has fixed, and sets the text right.
//!
//! The template language:
//!
//! | Form | Meaning |
//! | --- | --- |
//! | `[one\|two\|three]` | one of the alternatives, which may nest and may be empty |
//! | `{key}` | a variable bound earlier in the same story, so that it stays the same to the end |
//! | `<rule>` | an entry of a list in [`crate::lexicon`], itself a template |
//! | `@ ` | the article "a" or "an", decided by the word that follows |
//!
//! Capitals are set at the end: at the start of a paragraph, after a sentence, and after an opening quote.

use std::collections::BTreeMap;

use crate::{lexicon, rng::Rng};

/// In a draft: the next letter is a capital.
const CAPITAL: char = '^';

/// Tells one story.
#[derive(Debug)]
pub(crate) struct Teller {
    rng: Rng,
    bound: BTreeMap<String, String>,
    draft: String,
}

impl Teller {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { rng, bound: BTreeMap::new(), draft: String::new() }
    }

    /// The random numbers of this story.
    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Binds `key` to the expansion of `template` for the rest of the story.
    pub(crate) fn set(&mut self, key: &str, template: &str) {
        let value = self.expand(template);
        self.bound.insert(key.to_owned(), value);
    }

    /// Binds `key.0`, `key.1`, … to the fields of one row of `table`.
    pub(crate) fn set_row<const N: usize>(&mut self, key: &str, table: &[[&str; N]]) {
        let row = &table[self.rng.below(table.len())];
        for (i, field) in row.iter().enumerate() {
            self.set(&format!("{key}.{i}"), field);
        }
    }

    /// The value bound to `key`, if any.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.bound.get(key).map(String::as_str)
    }

    /// Whether some variable already has this value.
    pub(crate) fn is_taken(&self, value: &str) -> bool {
        self.bound.values().any(|v| v == value)
    }

    /// Adds a sentence or several, beginning with a capital, to the current paragraph.
    pub(crate) fn say(&mut self, template: &str) {
        let text = self.expand(template);
        if text.is_empty() {
            return;
        }
        if !(self.draft.is_empty() || self.draft.ends_with('\n')) {
            self.draft.push(' ');
        }
        self.draft.push(CAPITAL);
        self.draft.push_str(&text);
    }

    /// Adds one of several templates.
    pub(crate) fn say_one(&mut self, templates: &[&str]) {
        let template = self.rng.pick(templates);
        self.say(template);
    }

    /// Adds a template in `percent` of the cases.
    pub(crate) fn maybe(&mut self, percent: usize, template: &str) {
        if self.rng.below(100) < percent {
            self.say(template);
        }
    }

    /// Starts a new paragraph.
    pub(crate) fn paragraph(&mut self) {
        if !self.draft.is_empty() && !self.draft.ends_with('\n') {
            self.draft.push('\n');
        }
    }

    /// The finished story.
    pub(crate) fn finish(self) -> String {
        set_capitals(&set_articles(self.draft.trim_end()))
    }

    fn expand(&mut self, template: &str) -> String {
        let mut out = String::with_capacity(template.len());
        self.expand_into(template, &mut out);
        out
    }

    fn expand_into(&mut self, template: &str, out: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{', '<']) {
            out.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            rest = match rest.as_bytes()[at] {
                b'[' => {
                    let (alternatives, after) = split_alternatives(tail);
                    let chosen = alternatives[self.rng.below(alternatives.len())];
                    self.expand_into(chosen, out);
                    after
                }
                b'{' => {
                    let (key, after) = until(tail, '}');
                    let value = self.bound.get(key);
                    out.push_str(
                        value.unwrap_or_else(|| panic!("no variable {{{key}}} in: {template}")),
                    );
                    after
                }
                _ => {
                    let (rule, after) = until(tail, '>');
                    let entry = self.rng.pick(lexicon::rule(rule));
                    self.expand_into(entry, out);
                    after
                }
            };
        }
        out.push_str(rest);
    }
}

/// Splits at the closing character, which templates always have.
fn until(text: &str, close: char) -> (&str, &str) {
    text.split_once(close).unwrap_or_else(|| panic!("missing {close} in template: {text}"))
}

/// The alternatives of a bracket whose opening has been read, and the text after its end.
fn split_alternatives(text: &str) -> (Vec<&str>, &str) {
    let (mut depth, mut start, mut alternatives) = (0_usize, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b'|' if depth == 0 => {
                alternatives.push(&text[start..at]);
                start = at + 1;
            }
            b']' if depth == 0 => {
                alternatives.push(&text[start..at]);
                return (alternatives, &text[at + 1..]);
            }
            b']' => depth -= 1,
            _ => {}
        }
    }
    panic!("missing ] in template: {text}")
}

/// Whether "an" goes before a text that starts with this word.
pub(crate) fn takes_an(next: &str) -> bool {
    let word: String =
        next.chars().take_while(|c| c.is_alphabetic()).flat_map(char::to_lowercase).collect();
    let by_sound = |prefixes: &[&str]| prefixes.iter().any(|p| word.starts_with(p));
    if by_sound(&["hour", "honest"]) {
        return true;
    }
    word.starts_with(['a', 'e', 'i', 'o', 'u']) && !by_sound(&["use", "uni", "one", "once", "eu"])
}

fn set_articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("@ ") {
        out.push_str(before);
        out.push_str(if takes_an(after) { "an " } else { "a " });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn set_capitals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut capital, mut in_quote) = (true, false);
    // The last mark that may end a sentence, until a letter follows it.
    let mut ended = ' ';
    for c in text.chars() {
        match c {
            '"' => {
                in_quote = !in_quote;
                if in_quote {
                    capital = true;
                } else {
                    // After `!"` and `?"` the sentence may go on with "said"; after `."` it may not.
                    capital = ended == '.';
                }
            }
            '.' | '!' | '?' => ended = c,
            CAPITAL => {
                capital = true;
                continue;
            }
            '\n' => capital = true,
            ' ' if ended != ' ' && (in_quote || !out.ends_with('"')) => capital = true,
            _ if c.is_alphanumeric() => {
                if capital {
                    out.extend(c.to_uppercase());
                } else {
                    out.push(c);
                }
                (capital, ended) = (false, ' ');
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teller() -> Teller {
        Teller::new(Rng::for_story(7, 7))
    }

    #[test]
    fn alternatives_nest_and_variables_stay() {
        let mut t = teller();
        t.set("x", "[a[b|b]|ab]");
        assert_eq!(t.get("x"), Some("ab"));
        t.say("{x} and {x}.");
        t.say("[|]");
        t.say("then [{x}|{x}]!");
        assert_eq!(t.finish(), "Ab and ab. Then ab!");
    }

    #[test]
    fn articles_follow_the_sound() {
        assert_eq!(
            set_articles("@ owl, @ useful hour, @ hour, @ fox"),
            "an owl, a useful hour, an hour, a fox"
        );
    }

    #[test]
    fn capitals_follow_sentences_and_quotes() {
        let text = "he ran. \"stop!\" said she. \"why? no.\" then: rest.\nnew. \"who?\" asked he.";
        let want = "He ran. \"Stop!\" said she. \"Why? No.\" Then: rest.\nNew. \"Who?\" asked he.";
        assert_eq!(set_capitals(text), want);
    }
}
