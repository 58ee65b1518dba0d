//! Sums, calendars and plain facts. Every number and every day in them is right.

use crate::{
    cast::Kind,
    lexicon::{number, rule},
    teller::Teller,
};

pub(crate) fn tell(t: &mut Teller) {
    match t.rng().below(5) {
        0 | 1 => sums(t),
        2 => calendar(t),
        3 => week(t),
        _ => animals(t),
    }
}

fn sums(t: &mut Teller) {
    for _ in 0..t.rng().between(2, 4) {
        t.paragraph();
        t.cast("a", Kind::Child);
        t.cast("b", Kind::Child);
        t.set("x", "[<fruit>|<vegetable>|coins|shells|stamps|eggs|marbles|nuts]");
        let (n, m) = (t.rng().between(2, 20), t.rng().between(2, 12));
        let (high, low) = (n.max(m) + 1, n.min(m));
        t.set("n", &number(n));
        t.set("m", &number(m));
        t.set("high", &number(high));
        t.set("low", &number(low));
        match t.rng().below(4) {
            0 => {
                t.set("sum", &number(n + m));
                t.say("{a} has {n} {x}. {b} [gives {a.him}|brings {a.him}] {m} more. {n} and {m} make {sum}, so now {a} has {sum} {x}.");
            }
            1 => {
                t.set("left", &number(high - low));
                t.say("{a} has {high} {x}. {a.he} [gives {low} to {b}|loses {low} of them|sells {low} of them]. {high} less {low} is {left}, so {left} {x} are left.");
            }
            2 => {
                t.set("all", &number(n * m.min(9)));
                t.set("each", &number(m.min(9)));
                t.say("There are {n} [boxes|bags|baskets]. In each of them there are {each} {x}. {n} times {each} is {all}, so there are {all} {x} in all.");
            }
            _ => {
                let each = m.min(9);
                t.set("each", &number(each));
                t.set("people", &number(low.clamp(2, 9)));
                t.set("all", &number(each * low.clamp(2, 9)));
                t.say("{people} children share {all} {x}. {all} divided by {people} is {each}, so every child gets {each} {x}.");
            }
        }
    }
    t.maybe(30, "[Numbers are good friends|Check it yourself|It is easy once you know how].");
}

const ORDINALS: [&str; 12] = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
];

fn calendar(t: &mut Teller) {
    let months = rule("month");
    let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let seasons = [
        "winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "autumn",
        "autumn", "autumn", "winter",
    ];
    let mut i = t.rng().below(12);
    for _ in 0..t.rng().between(2, 4) {
        t.set("m", months[i]);
        t.set("next", months[(i + 1) % 12]);
        t.set("before", months[(i + 11) % 12]);
        t.set("days", &number(lengths[i]));
        t.set("season", seasons[i]);
        t.set("place", ORDINALS[i]);
        t.say("{m} is the {place} month of the year. [It has {days} days|There are {days} days in {m}]. [After {m} comes {next}|Before {m} comes {before}|It comes after {before} and before {next}]. In the north, it is a month of {season}.");
        t.maybe(
            35,
            "[Many people like {m}|In {m}, the market sells <fruit>|Some birthdays are in {m}].",
        );
        i = (i + t.rng().between(1, 5)) % 12;
        t.paragraph();
    }
}

fn week(t: &mut Teller) {
    let days = rule("day");
    t.cast("a", Kind::Child);
    let first = t.rng().below(7);
    t.say(
        "[This is the week of {a}|{a} has a busy week|{a} wrote down what {a.he} did, day by day].",
    );
    for i in 0..t.rng().between(4, 7) {
        t.set("d", days[(first + i) % 7]);
        t.say("On {d}, {a.he} [went to the market and bought <fruit>|played with {a.his} <toy>|helped to cook <food>|read a book about @ <animal>|stayed at home because it rained|planted <flower>|visited {a.his} [aunt|uncle|grandmother]|learned to swim|painted the door <colour>|found @ <treasure> in the street|cleaned {a.his} room|wrote a letter to a friend].");
    }
    let last = (first + t.rng().below(7)) % 7;
    t.paragraph();
    t.set("x", days[last]);
    t.set("y", days[(last + 1) % 7]);
    t.set("z", days[(last + 6) % 7]);
    t.say("[If today is {x}, tomorrow is {y}|If today is {x}, yesterday was {z}|The day after {x} is {y}, and the day before it is {z}].");
}

fn animals(t: &mut Teller) {
    // Name, kind, food, home, one more fact.
    const FACTS: &[[&str; 5]] = &[
        ["owl", "bird", "mice", "in hollow trees", "it hunts at night and hears very well"],
        [
            "bee",
            "insect",
            "the sweet juice of flowers",
            "in a hive",
            "it has six legs and makes honey",
        ],
        ["spider", "small animal", "flies", "in its web", "it has eight legs"],
        ["horse", "large animal", "grass and oats", "on farms", "it can sleep while it stands"],
        ["frog", "small animal", "insects", "near ponds", "it begins its life in the water"],
        [
            "bear",
            "large animal",
            "berries, fish and honey",
            "in the forest",
            "it sleeps for much of the winter",
        ],
        [
            "whale",
            "sea animal",
            "tiny animals of the sea",
            "in the ocean",
            "it must come up to breathe air",
        ],
        ["penguin", "bird", "fish", "in the cold south", "it cannot fly, but it swims very well"],
        [
            "camel",
            "large animal",
            "dry plants",
            "in the desert",
            "it can live for many days without water",
        ],
        [
            "ant",
            "insect",
            "seeds and small insects",
            "in a nest under the ground",
            "it can carry things much heavier than itself",
        ],
        [
            "rabbit",
            "small animal",
            "grass and leaves",
            "in holes under the ground",
            "it has long ears and quick feet",
        ],
        ["goose", "bird", "grass and seeds", "near water", "it flies south before the winter"],
        [
            "squirrel",
            "small animal",
            "nuts and seeds",
            "in trees",
            "it hides nuts and forgets some of them",
        ],
        [
            "elephant",
            "large animal",
            "leaves and fruit",
            "in warm lands",
            "it is the heaviest animal on land",
        ],
        ["cow", "large animal", "grass", "on farms", "it gives milk"],
        ["snail", "small animal", "leaves", "in its own shell", "it is one of the slowest animals"],
        [
            "eagle",
            "bird",
            "fish and rabbits",
            "high on the rocks",
            "it can see a mouse from far away",
        ],
        [
            "bat",
            "small animal",
            "insects",
            "in caves and old houses",
            "it flies at night and sleeps upside down",
        ],
    ];
    let first = t.rng().below(FACTS.len());
    for i in 0..t.rng().between(2, 4) {
        // Five and the number of animals have no common factor, so none comes twice.
        let at = (first + 5 * i) % FACTS.len();
        t.set_row("f", &FACTS[at..=at]);
        t.say_one(&[
            "@ {f.0} is @ {f.1}. It eats {f.2} and lives {f.3}.",
            "The {f.0} is @ {f.1} that lives {f.3}. It eats {f.2}.",
            "@ {f.0} lives {f.3} and eats {f.2}.",
        ]);
        t.say("[Did you know that {f.4}?|People know that {f.4}.|{f.4}.|And {f.4}.]");
        t.paragraph();
    }
}
