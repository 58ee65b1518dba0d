//! Scores of SentencePiece and merges of BPE, one from the other.
//!
//! SentencePiece joins the two neighbours whose union has the highest score of all, whatever the halves; BPE joins the pair that stands first
//! in its list. A vocabulary that SentencePiece trained has, as merges, every way of halving each token, in the order of scores: then both
//! give the same tokens.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{super::Caveat, TokenType};

/// The score of each token: merged ones in the order of their first merge, then single characters in the order of their ids; 0 for
/// tokens that no merge makes and that are no text. What SentencePiece itself gives when it trains.
pub(super) fn scores(
    tokens: &[String],
    types: &[TokenType],
    merges: &[(String, String)],
) -> Vec<f32> {
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut scores = vec![0.0; tokens.len()];
    let mut scored = vec![false; tokens.len()];
    let mut next = 0u32;
    let mut score = |id: usize| {
        if types[id] == TokenType::Normal && !scored[id] {
            scored[id] = true;
            scores[id] = -(next as f32);
            next += 1;
        }
    };
    for (left, right) in merges {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str()) {
            score(id);
        }
    }
    (0..tokens.len()).for_each(score);
    scores
}

/// Whether joining by score gives what these merges give.
pub(super) fn check_merges(
    tokens: &[String],
    types: &[TokenType],
    merges: &[(String, String)],
) -> Option<Caveat> {
    let pairs: HashSet<(&str, &str)> =
        merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    let joined: HashSet<String> =
        merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    // What can stand beside another while tokens are joined.
    let reachable = |text: &str| text.chars().nth(1).is_none() || joined.contains(text);
    let texts: HashSet<&str> = texts(tokens, types).map(|(_, token)| token).collect();
    let mut differing: BTreeSet<&str> = BTreeSet::new();
    for &token in &texts {
        let missing = halves(token).any(|(left, right)| {
            texts.contains(left)
                && texts.contains(right)
                && reachable(left)
                && reachable(right)
                && !pairs.contains(&(left, right))
        });
        if missing {
            differing.insert(token);
        }
    }
    // All merges of a token have to stand together.
    let mut last = String::new();
    let mut done = HashSet::new();
    for (left, right) in merges {
        let token = format!("{left}{right}");
        if token != last {
            if let Some(&known) = texts.get(token.as_str())
                && done.contains(&token)
            {
                differing.insert(known);
            }
            done.insert(std::mem::replace(&mut last, token));
        }
    }
    (!differing.is_empty()).then_some(Caveat::Merges { tokens: differing.len() })
}

/// Every way of halving each token, the highest score first; and what equal scores leave open.
pub(super) fn merges(
    tokens: &[String],
    types: &[TokenType],
    scores: &[f32],
) -> (Vec<(String, String)>, Option<Caveat>) {
    let ids: HashMap<&str, usize> = texts(tokens, types).map(|(id, token)| (token, id)).collect();
    let mut found = Vec::new();
    for (id, token) in texts(tokens, types) {
        for (left, right) in halves(token) {
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                found.push((id, left_id, right_id));
            }
        }
    }
    found.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.cmp(b)));
    let mut made: Vec<usize> = found.iter().map(|merge| merge.0).collect();
    made.dedup();
    let tied = |i: usize| {
        let same = |other: Option<&usize>| other.is_some_and(|&id| scores[id] == scores[made[i]]);
        same(i.checked_sub(1).and_then(|i| made.get(i))) || same(made.get(i + 1))
    };
    let tokens_tied = (0..made.len()).filter(|&i| tied(i)).count();
    let merges =
        found.iter().map(|&(_, left, right)| (tokens[left].clone(), tokens[right].clone()));
    let caveat = (tokens_tied > 0).then_some(Caveat::TiedScores { tokens: tokens_tied });
    (merges.collect(), caveat)
}

/// Tokens that are pieces of text, with their ids.
fn texts<'a>(
    tokens: &'a [String],
    types: &'a [TokenType],
) -> impl Iterator<Item = (usize, &'a str)> {
    let normal = tokens.iter().enumerate().filter(|&(id, _)| types[id] == TokenType::Normal);
    normal.map(|(id, token)| (id, token.as_str()))
}

/// Every way of cutting a text in two.
fn halves(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| text.split_at(at))
}

/// The text of the token for a byte.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(texts: &[&str]) -> (Vec<String>, Vec<TokenType>) {
        let tokens: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let types = vec![TokenType::Normal; tokens.len()];
        (tokens, types)
    }

    fn pairs(merges: &[(&str, &str)]) -> Vec<(String, String)> {
        merges.iter().map(|&(left, right)| (left.to_owned(), right.to_owned())).collect()
    }

    #[test]
    fn every_half_is_a_merge_in_the_order_of_scores() {
        let (tokens, types) = vocabulary(&["abc", "bc", "ab", "a", "b", "c"]);
        let (found, caveat) = merges(&tokens, &types, &[-2.0, -1.0, 0.0, -3.0, -4.0, -5.0]);
        assert_eq!(found, pairs(&[("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]));
        assert_eq!(caveat, None);
        assert_eq!(check_merges(&tokens, &types, &found), None);
        assert_eq!(scores(&tokens, &types, &found), [-2.0, -1.0, 0.0, -3.0, -4.0, -5.0]);
    }

    #[test]
    fn equal_scores_are_told() {
        let (tokens, types) = vocabulary(&["ab", "bc", "cd", "a", "b", "c", "d"]);
        let (found, caveat) = merges(&tokens, &types, &[-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(found, pairs(&[("c", "d"), ("a", "b"), ("b", "c")]));
        assert_eq!(caveat, Some(Caveat::TiedScores { tokens: 2 }));
    }

    #[test]
    fn merges_that_scores_cannot_express_are_told() {
        let (tokens, types) = vocabulary(&["abc", "bc", "ab", "a", "b", "c"]);
        let missing = pairs(&[("a", "b"), ("b", "c"), ("ab", "c")]);
        let caveat = Some(Caveat::Merges { tokens: 1 });
        assert_eq!(check_merges(&tokens, &types, &missing), caveat);
        let apart = pairs(&[("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")]);
        assert_eq!(check_merges(&tokens, &types, &apart), caveat);
        // A half that never comes to be is no obstacle.
        let (tokens, types) = vocabulary(&["abc", "bc", "ab", "a", "b", "c"]);
        let unreachable = pairs(&[("a", "b"), ("ab", "c")]);
        assert_eq!(check_merges(&tokens, &types, &unreachable), caveat, "bc itself has no merge");
    }
}
