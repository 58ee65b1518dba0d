//! The kinds of story. Each is a function that tells one story to its end.

mod adventure;
mod essay;
mod fable;
mod facts;
mod howto;
mod letter;
mod machine;
pub(crate) mod riddle;
mod scene;
mod tale;
mod talk;
mod walk;

use crate::teller::Teller;

/// A kind of story and its share among a hundred.
type Genre = (usize, fn(&mut Teller));

const GENRES: &[Genre] = &[
    (22, tale::tell),
    (10, fable::tell),
    (10, machine::tell),
    (9, adventure::tell),
    (8, talk::tell),
    (8, facts::tell),
    (4, howto::tell),
    (3, riddle::tell),
    (5, letter::tell),
    (8, essay::tell),
    (12, walk::tell),
    (9, scene::tell),
];

/// Tells a story of a kind drawn by its share.
pub(crate) fn tell(t: &mut Teller) {
    let total = GENRES.iter().map(|g| g.0).sum();
    let mut ticket = t.rng().below(total);
    for &(share, tell) in GENRES {
        if ticket < share {
            return tell(t);
        }
        ticket -= share;
    }
    unreachable!("a ticket is smaller than the sum of the shares");
}
