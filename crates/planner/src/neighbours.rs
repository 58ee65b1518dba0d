//! Plans that are nearly as good by the numbers, and may be better by measurement.

use crate::{Budget, Problem, Selection};

/// The best plans that differ from `selection` in one or two units and keep the budget, least loss first, at most `most`.
///
/// Losses do not quite add up: errors of one unit may hide those of another. Who measures these plans as a whole and moves on to the best one finds
/// what the sums cannot say.
pub fn neighbours(
    problem: &Problem,
    selection: &Selection,
    budget: &Budget,
    most: usize,
) -> Vec<Selection> {
    let change = |choices: &[usize], unit: usize, choice: usize| {
        let mut choices = choices.to_vec();
        choices[unit] = choice;
        choices
    };
    let moves: Vec<(usize, usize)> = problem
        .units()
        .iter()
        .enumerate()
        .flat_map(|(unit, u)| {
            let now = selection.choices[unit];
            u.allowed()
                .filter(move |(choice, _)| *choice != now)
                .map(move |(choice, _)| (unit, choice))
        })
        .collect();
    let mut found: Vec<Selection> = Vec::new();
    for (i, &(unit, choice)) in moves.iter().enumerate() {
        let one = change(&selection.choices, unit, choice);
        let others = moves[i + 1..].iter().filter(|(other, _)| *other != unit);
        let two = others.map(|&(other, choice)| change(&one, other, choice));
        let all = std::iter::once(one.clone()).chain(two).map(|choices| problem.sum(choices));
        found.extend(all.filter(|s| budget.allows(s.bytes, s.nanoseconds)));
        // Not all pairs at once: there are many.
        if found.len() > 4096.max(4 * most) {
            shorten(&mut found, most);
        }
    }
    shorten(&mut found, most);
    found
}

fn shorten(found: &mut Vec<Selection>, most: usize) {
    found.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    found.truncate(most);
}
