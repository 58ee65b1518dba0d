//! Several texts as a tree: what neighbours have in common is there once.

use std::ops::Range;

/// A text that is read for the logits after its last tokens.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The text from its beginning.
    pub tokens: &'a [u32],
    /// After how many of its last tokens logits are wanted; after all of them if it has fewer.
    pub rows: usize,
}

impl<'a> Wanted<'a> {
    /// A text with the logits after each of its tokens.
    pub fn all(tokens: &'a [u32]) -> Self {
        Self { tokens, rows: tokens.len() }
    }

    /// Tokens before the first whose logits are wanted.
    fn before(&self) -> usize {
        self.tokens.len().saturating_sub(self.rows)
    }
}

/// What a segment continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The first so many tokens of what has been read before.
    Kept(usize),
    /// A whole segment, which comes before this one.
    Segment(usize),
}

/// A run of tokens that is read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) after: After,
    /// Position of its first token.
    pub(crate) first: usize,
    /// Number of its tokens.
    pub(crate) len: usize,
    /// Of how many of its last tokens the logits are wanted.
    pub(crate) wanted: usize,
}

impl Segment {
    /// Tokens up to and including its own.
    pub(crate) fn end(&self) -> usize {
        self.first + self.len
    }
}

/// Texts, one after another, with what each has in common with the one before it joined.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    /// None is empty.
    pub(crate) segments: Vec<Segment>,
    /// The tokens of each segment.
    pub(crate) tokens: Vec<&'a [u32]>,
    /// For each text the segments that make it, after what was kept.
    paths: Vec<Vec<usize>>,
    /// Where the last text ends.
    pub(crate) last: After,
}

impl<'a> Tree<'a> {
    /// Of texts that may begin like `kept`, whose logits are not known any more.
    pub(crate) fn new(kept: &[u32], texts: &[Wanted<'a>]) -> Self {
        // How far each text is like the one before it.
        let mut before = kept;
        let mut common: Vec<usize> = texts
            .iter()
            .map(|text| common_beginning(std::mem::replace(&mut before, text.tokens), text.tokens))
            .collect();
        // Tokens whose logits are wanted are read again.
        let mut shared = usize::MAX;
        let mut most = common.first().copied().unwrap_or(0);
        for (text, common) in texts.iter().zip(&common) {
            shared = shared.min(*common);
            if shared.min(most) > text.before() {
                most = text.before();
            }
        }
        if let Some(first) = common.first_mut() {
            *first = most;
        }

        let last = After::Kept(kept.len());
        let mut tree = Self { segments: vec![], tokens: vec![], paths: vec![], last };
        let mut path: Vec<usize> = vec![];
        for (i, text) in texts.iter().enumerate() {
            while path.last().is_some_and(|&s| tree.segments[s].end() > common[i]) {
                path.pop();
            }
            let mut first = common[i];
            for end in forks(first, text.tokens.len(), &common[i + 1..]) {
                let after = path.last().map_or(After::Kept(first), |&s| After::Segment(s));
                path.push(tree.segments.len());
                tree.segments.push(Segment { after, first, len: end - first, wanted: 0 });
                tree.tokens.push(&text.tokens[first..end]);
                first = end;
            }
            for &segment in &path {
                let segment = &mut tree.segments[segment];
                let wanted = segment.end().saturating_sub(text.before());
                segment.wanted = segment.wanted.max(wanted.min(segment.len));
            }
            tree.last = path.last().map_or(After::Kept(first), |&s| After::Segment(s));
            tree.paths.push(path.clone());
        }
        tree
    }

    /// Where the logits of a text are: segments, with rows of those that are wanted of them.
    pub(crate) fn rows_of(
        &self,
        number: usize,
        text: Wanted<'_>,
    ) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.paths[number].iter().filter_map(move |&index| {
            let segment = &self.segments[index];
            let own = segment.end().saturating_sub(text.before()).min(segment.len);
            (own > 0).then_some((index, segment.wanted - own..segment.wanted))
        })
    }
}

fn common_beginning(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where a text is cut from `first` on: where a later one leaves it, and at its end. `common` is how far each later text is like the one before it.
fn forks(first: usize, len: usize, common: &[usize]) -> Vec<usize> {
    let mut ends = vec![];
    let mut end = len;
    for &common in common {
        if end <= first {
            break;
        }
        if common < end {
            ends.push(end);
            end = common;
        }
    }
    if end > first {
        ends.push(end);
    }
    ends.reverse();
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::Random;

    /// Follows each text through the tree, and the rows that are wanted of it.
    fn check(kept: &[u32], texts: &[Wanted<'_>]) {
        let tree = Tree::new(kept, texts);
        let text_of = |mut after: After| {
            let mut reversed: Vec<u32> = vec![];
            loop {
                match after {
                    After::Kept(n) => {
                        reversed.extend(kept[..n].iter().rev());
                        reversed.reverse();
                        return reversed;
                    }
                    After::Segment(s) => {
                        let segment = &tree.segments[s];
                        reversed.extend(tree.tokens[s].iter().rev());
                        after = segment.after;
                    }
                }
            }
        };
        for (i, segment) in tree.segments.iter().enumerate() {
            assert!(segment.wanted <= segment.len && segment.len == tree.tokens[i].len());
            assert!(segment.len > 0);
            assert_eq!(text_of(segment.after).len(), segment.first);
            assert!(!matches!(segment.after, After::Segment(s) if s >= i));
        }
        for (i, text) in texts.iter().enumerate() {
            let end = if i + 1 == texts.len() {
                tree.last
            } else {
                tree.paths[i].last().map_or(After::Kept(text.tokens.len()), |&s| After::Segment(s))
            };
            assert_eq!(text_of(end), text.tokens);
            let mut position = text.before();
            for (s, rows) in tree.rows_of(i, *text) {
                let segment = &tree.segments[s];
                assert_eq!(segment.end() - segment.wanted + rows.start, position);
                assert!(rows.end <= segment.wanted && segment.first <= position);
                position += rows.len();
            }
            assert_eq!(position, text.tokens.len());
        }
    }

    #[test]
    fn a_prefix_is_there_once() {
        let texts = [[1, 2, 3, 4, 5].as_slice(), &[1, 2, 3, 6], &[1, 2, 3], &[1, 2, 7]];
        let texts = texts.map(|tokens| Wanted { tokens, rows: 1 });
        let tree = Tree::new(&[], &texts);
        assert_eq!(tree.tokens, [&[1, 2][..], &[3], &[4, 5], &[6], &[7]]);
        let wanted: Vec<usize> = tree.segments.iter().map(|s| s.wanted).collect();
        assert_eq!(wanted, [0, 1, 1, 1, 1]);
        assert_eq!(tree.last, After::Segment(4));
    }

    #[test]
    fn what_was_read_is_not_read_again_unless_its_logits_are_wanted() {
        let kept = [1, 2, 3, 4];
        let text = |tokens: &'static [u32], rows| Wanted { tokens, rows };
        let tree = Tree::new(&kept, &[text(&[1, 2, 3, 4, 5], 1), text(&[1, 2, 3, 6], 2)]);
        // The second text wants the logits after token 3.
        assert_eq!(tree.segments[0].after, After::Kept(2));
        let tree = Tree::new(&kept, &[text(&[1, 2, 3, 4, 5], 1), text(&[1, 2, 9, 6], 2)]);
        assert_eq!(tree.segments[0].after, After::Kept(4));
        assert_eq!(tree.segments[1].after, After::Kept(2));
        let tree = Tree::new(&kept, &[text(&[1, 2], 0)]);
        assert!(tree.segments.is_empty());
        assert_eq!(tree.last, After::Kept(2));
    }

    #[test]
    fn random_trees_are_their_texts() {
        let mut random = Random::new(3);
        for _ in 0..2000 {
            // Two tokens only, so that most texts begin alike.
            let mut text = || {
                let len = random.below(7);
                (0..len).map(|_| random.below(2) as u32).collect::<Vec<_>>()
            };
            let (kept, texts) = (text(), [text(), text(), text(), text(), text(), text()]);
            let mut wanted =
                |tokens| Wanted { tokens, rows: random.below(<[u32]>::len(tokens) + 2) };
            check(&kept, &texts.each_ref().map(|tokens| wanted(tokens)));
        }
    }
}
