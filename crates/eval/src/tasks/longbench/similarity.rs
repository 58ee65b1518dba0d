//! Similarity of two lines as Python's `difflib.SequenceMatcher` sees it, in whole percent: `fuzz.ratio` of fuzzywuzzy.

use std::collections::HashMap;

/// From this length on, difflib looks away from characters that are very common.
const LONG: usize = 200;

/// Similarity in hundredths, from 0 to 1.
pub(super) fn similarity(a: &str, b: &str) -> f64 {
    if a == b {
        return 1.0;
    }
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let ratio = 2.0 * matches(&a, &b) as f64 / (a.len() + b.len()) as f64;
    (100.0 * ratio).round_ties_even() / 100.0
}

/// Characters in matching blocks: the longest block, then those on its left and on its right (Ratcliff and Obershelp).
fn matches(a: &[char], b: &[char]) -> usize {
    let mut places: HashMap<char, Vec<usize>> = HashMap::new();
    for (j, &c) in b.iter().enumerate() {
        places.entry(c).or_default().push(j);
    }
    if b.len() >= LONG {
        places.retain(|_, at| at.len() <= b.len() / 100 + 1);
    }
    let mut open = vec![(0, a.len(), 0, b.len())];
    let mut total = 0;
    while let Some((a_low, a_high, b_low, b_high)) = open.pop() {
        let (i, j, size) = longest_block(a, b, &places, (a_low, a_high, b_low, b_high));
        if size > 0 {
            total += size;
            open.push((a_low, i, b_low, j));
            open.push((i + size, a_high, j + size, b_high));
        }
    }
    total
}

fn longest_block(
    a: &[char],
    b: &[char],
    places: &HashMap<char, Vec<usize>>,
    (a_low, a_high, b_low, b_high): (usize, usize, usize, usize),
) -> (usize, usize, usize) {
    let (mut i, mut j, mut size) = (a_low, b_low, 0);
    // Length of the block that ends before a place of b.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for at in a_low..a_high {
        let mut longer = HashMap::new();
        for &place in places.get(&a[at]).map_or(&[][..], |places| places) {
            if place < b_low {
                continue;
            }
            if place >= b_high {
                break;
            }
            let length = lengths.get(&place).copied().unwrap_or(0) + 1;
            longer.insert(place + 1, length);
            if length > size {
                (i, j, size) = (at + 1 - length, place + 1 - length, length);
            }
        }
        lengths = longer;
    }
    // Common characters may lengthen a block, though none begins with them.
    while i > a_low && j > b_low && a[i - 1] == b[j - 1] {
        (i, j, size) = (i - 1, j - 1, size + 1);
    }
    while i + size < a_high && j + size < b_high && a[i + size] == b[j + size] {
        size += 1;
    }
    (i, j, size)
}
