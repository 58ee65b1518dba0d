//! Riddles, asked and answered.

use crate::{cast::Kind, teller::Teller};

pub(crate) const RIDDLES: &[[&str; 2]] = &[
    ["I have hands, but I cannot clap. I have a face, but I cannot smile", "a clock"],
    ["I have teeth, but I cannot bite", "a comb"],
    ["The more you take from me, the bigger I get", "a hole"],
    ["I go up when the rain comes down", "an umbrella"],
    ["I have leaves, but I am not a tree. I tell stories, but I have no mouth", "a book"],
    ["I run all day, but I never get tired. I have a bed, but I never sleep", "a river"],
    ["I have one eye, but I cannot see", "a needle"],
    ["I have four legs, but I cannot walk", "a table"],
    ["I speak without a mouth and answer every call", "an echo"],
    ["I am full of holes, but I can hold water", "a sponge"],
    ["I follow you in the sun and leave you in the dark", "your shadow"],
    ["I get wet while I make you dry", "a towel"],
    ["I have a neck, but no head", "a bottle"],
    ["I fall often, but I never get hurt. In winter I am white", "snow"],
    ["I have cities without houses and rivers without water", "a map"],
    ["I have keys, but I open no door", "a piano"],
    ["I am tall when I am young and short when I am old", "a candle"],
    ["I can fly without wings and cry without eyes", "a cloud"],
    ["You can break me without touching me. Just speak my name", "silence"],
    ["I have a tail and a head, but no body", "a coin"],
    [
        "I come at night without being called, and I am lost by day without being stolen",
        "the stars",
    ],
];

pub(crate) fn tell(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Child);
    t.say("{a} and {b} [asked each other riddles|played a game of riddles|sat by the fire and told riddles] [on a long evening|while it rained|on the way to <town>].");
    let mut asked = Vec::new();
    for round in 0..t.rng().between(2, 3) {
        let mut pick = t.rng().below(RIDDLES.len());
        while asked.contains(&pick) {
            pick = t.rng().below(RIDDLES.len());
        }
        asked.push(pick);
        t.set("q", RIDDLES[pick][0]);
        t.set("r", RIDDLES[pick][1]);
        t.paragraph();
        let (asks, answers) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        t.say(&format!("\"{{q}}. What am I?\" asked {{{asks}}}."));
        t.say(&format!(
            "{{{answers}}} [thought hard|smiled|looked around|counted to ten|did not need long]. \"You are {{r}},\" {{{answers}.he}} said. \"[That is right|Correct|Well done|You are too clever]!\" said {{{asks}}}."
        ));
    }
    t.paragraph();
    t.say("[They played until late|\"Now you make one up,\" said {a}|In the end they both had won|They laughed and began again].");
}
