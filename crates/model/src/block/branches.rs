//! A block over texts that branch: linear layers see the rows of all segments at once, attention each with what comes before it.

use std::ops::Range;

use rayon::prelude::*;

use super::Block;
use crate::{
    attention::{KeyValues, Sequence, attend},
    tree::{After, Segment},
    workspace::{Workspace, sized},
};

/// Keys that the segments attended to at a time may have copies of, 64 MiB, and as many values: one segment may have more.
const KEYS: usize = if cfg!(test) { 1 << 10 } else { 1 << 24 };

impl Block {
    /// All stages for segments, row after row in `h`. `kept` is what they continue; it becomes the keys and values of the text that `last` ends.
    ///
    /// With `wanted_only`, `h` comes back with only those rows whose logits are wanted: in the last block the others matter for their keys and values alone.
    pub(crate) fn forward_branches(
        &self,
        h: &mut Vec<f32>,
        segments: &[Segment],
        kept: &mut KeyValues,
        last: After,
        wanted_only: bool,
        work: &mut Workspace,
    ) {
        if let ([], After::Kept(n_tokens)) = (segments, last) {
            return kept.truncate(n_tokens, self.heads);
        }
        self.attention_norm.forward_into(h, sized(&mut work.x, h.len()));
        self.mix_branches(segments, kept, last, wanted_only, work);
        if wanted_only {
            keep_wanted(h, segments, self.attention_norm.width());
        }
        if !h.is_empty() {
            self.stages_after_mix(h, |_, _| (), work);
        }
    }

    /// Attention of segments: from `x` to `mixed`, of all rows or only of those that are wanted.
    pub(super) fn mix_branches(
        &self,
        segments: &[Segment],
        kept: &mut KeyValues,
        last: After,
        wanted_only: bool,
        work: &mut Workspace,
    ) {
        let n_tokens = segments.iter().map(|segment| segment.len).sum();
        assert_eq!(
            n_tokens * self.attention_norm.width(),
            work.x.len(),
            "lengths add up to all rows"
        );
        self.project(&mut segments.iter().flat_map(|s| s.first..s.end()), n_tokens, work);
        let (width, kv_width) = (self.heads.width(), self.heads.kv_width());
        let starts: Vec<usize> = starts(segments).collect();
        let attending = |segment: &Segment| if wanted_only { segment.wanted } else { segment.len };
        let n_rows: usize = segments.iter().map(attending).sum();
        let Workspace { queries, keys, values, mixed, .. } = work;
        let mut out = sized(mixed, n_rows * width);
        let mut becomes = None;
        for group in groups(segments, kv_width) {
            let caches: Vec<KeyValues> = group
                .clone()
                .into_par_iter()
                .map(|segment| {
                    let rows = |s: usize| {
                        let range = starts[s] * kv_width..(starts[s] + segments[s].len) * kv_width;
                        (&keys[range.clone()], &values[range])
                    };
                    self.cache_of(segment, segments, kept, rows)
                })
                .collect();
            let mut sequences = Vec::with_capacity(group.len());
            for (segment, cache) in group.clone().zip(&caches) {
                let n_rows = attending(&segments[segment]);
                let end = (starts[segment] + segments[segment].len) * width;
                let (own, rest) = out.split_at_mut(n_rows * width);
                out = rest;
                let queries = &queries[end - n_rows * width..end];
                sequences.push(Sequence { queries, cache, out: own });
            }
            attend(sequences, self.heads);
            if let After::Segment(last) = last
                && group.contains(&last)
            {
                becomes = caches.into_iter().nth(last - group.start);
            }
        }
        match (last, becomes) {
            (_, Some(cache)) => *kept = cache,
            (After::Kept(n_tokens), None) => kept.truncate(n_tokens, self.heads),
            (After::Segment(last), None) => panic!("segment {last} of {}", segments.len()),
        }
    }

    /// Keys and values of a segment and all before it; `rows` has each segment's own.
    fn cache_of<'a>(
        &self,
        segment: usize,
        segments: &[Segment],
        kept: &KeyValues,
        rows: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    ) -> KeyValues {
        let mut chain = vec![segment];
        let mut after = segments[segment].after;
        while let After::Segment(before) = after {
            chain.push(before);
            after = segments[before].after;
        }
        let After::Kept(n_kept) = after else { unreachable!("the chain ends at what was kept") };
        let mut cache = kept.first(n_kept, segments[segment].end() - n_kept, self.heads);
        for &segment in chain.iter().rev() {
            let (keys, values) = rows(segment);
            cache.append(keys, values, self.heads);
        }
        cache
    }
}

/// The row at which each segment begins.
fn starts(segments: &[Segment]) -> impl Iterator<Item = usize> {
    segments.iter().scan(0, |next, segment| {
        let start = *next;
        *next += segment.len;
        Some(start)
    })
}

/// Neighbouring segments whose keys are copied at a time.
fn groups(segments: &[Segment], kv_width: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = vec![];
    let mut n_keys = 0;
    for (i, segment) in segments.iter().enumerate() {
        let own = segment.end() * kv_width;
        match groups.last_mut() {
            Some(group) if n_keys + own <= KEYS => group.end = i + 1,
            _ => {
                groups.push(i..i + 1);
                n_keys = 0;
            }
        }
        n_keys += own;
    }
    groups
}

/// Moves the last rows of each segment that are wanted together.
fn keep_wanted(h: &mut Vec<f32>, segments: &[Segment], width: usize) {
    let mut n_rows = 0;
    for (segment, start) in segments.iter().zip(starts(segments)) {
        let end = start + segment.len;
        h.copy_within((end - segment.wanted) * width..end * width, n_rows * width);
        n_rows += segment.wanted;
    }
    h.truncate(n_rows * width);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Wanted};
    use fewbit_checkpoint::Checkpoint;
    use fewbit_testkit::max_abs_diff;

    #[test]
    fn groups_are_filled_and_leave_none_out() {
        let segment = |len| Segment { after: After::Kept(0), first: 0, len, wanted: 0 };
        let segments = [3, 1, 9, 1, 1, 2].map(segment);
        assert_eq!(groups(&segments, KEYS / 4), [0..2, 2..3, 3..6]);
        assert_eq!(groups(&segments, 0), std::slice::from_ref(&(0..6)));
        assert!(groups(&[], 8).is_empty());
    }

    /// Segments of other groups than that of what they continue, and a last text that is not of the last group.
    #[test]
    fn groups_change_nothing() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/qwen3");
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let vocab_size = model.config().vocab_size as u32;
        let text = |own: u32, n: u32| -> Vec<u32> {
            (0..n).map(|i| (i * 7 + if i < 30 { 0 } else { own }) % vocab_size).collect()
        };
        let texts = [text(1, 50), text(2, 60), text(3, 45), text(4, 70), text(4, 40)];
        let kv_width = model.blocks()[0].heads().kv_width();
        assert!(60 * kv_width > KEYS / 2, "more than one group");
        let mut session = model.session();
        let all = session.read(&texts.each_ref().map(|text| Wanted::all(text))).unwrap();
        for (got, text) in all.iter().zip(&texts) {
            let expected = model.logits(text).unwrap();
            let (got, expected) = (got.as_slice().unwrap(), expected.as_slice().unwrap());
            let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(max_abs_diff(got, expected).0 <= 1e-5 * largest);
        }
        let next = session.feed(&[5]).unwrap().to_vec();
        let whole = model.logits(&[&*texts[4], &[5]].concat()).unwrap();
        let largest = next.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(max_abs_diff(&next, whole.row(40).as_slice().unwrap()).0 <= 1e-5 * largest);
    }
}
