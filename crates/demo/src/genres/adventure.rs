//! Voyages and journeys: a ship or a road, the weather, something found, and the way home.

use crate::{cast::Kind, lexicon::number, teller::Teller};

pub(crate) fn tell(t: &mut Teller) {
    match t.rng().below(3) {
        0 => voyage(t),
        1 => log(t),
        _ => journey(t),
    }
}

fn voyage(t: &mut Teller) {
    t.cast("a", Kind::Adult);
    t.cast("b", Kind::Child);
    t.set("ship", "<ship name>");
    t.set("cargo", "<cargo>");
    t.set("town", "<town>");
    t.set_row(
        "x",
        &[
            [
                "a small island with white sand",
                "a tree with <colour> fruit",
                "the fruit was sweet as honey",
            ],
            [
                "an island that was on no map",
                "an old chest full of coins",
                "the coins were only chocolate",
            ],
            [
                "a rock with a lonely tower",
                "an old man with a long beard",
                "he had waited twenty years for a ship",
            ],
            ["a great whale", "a rope around its tail", "the whale sang a deep song of thanks"],
            [
                "a boat without a crew",
                "a cat that slept on the sails",
                "the cat became the best sailor of all",
            ],
            [
                "a bottle in the waves",
                "a letter from a princess",
                "the princess was now a grandmother",
            ],
            [
                "an island of birds",
                "a nest as big as a house",
                "the birds showed them the way home",
            ],
        ],
    );
    t.say("Captain {a} had a ship called the {ship}. <one day>, the {ship} left {town} with [forty barrels of|a load of|a hundred sacks of] {cargo} [and a crew of [six|seven|eight|nine]|on board]. {b}, the ship's {b.kind}, [stood at the front|climbed the mast|waved to everyone].");
    t.say("For [three|four|five] days [the wind was good|the sea was calm|dolphins swam beside them]. {b} [learned to tie knots|cleaned the deck|fed the chickens], and the captain [told stories of far lands|taught {b.him} the names of the stars|drank <drink>].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("Then the weather changed. [Black clouds came up in the west|The sea turned grey|The wind began to howl]. [\"All hands on deck|\"Take down the sails|\"Hold on tight]!\" cried the captain. The waves were [as high as houses|higher than the mast], and the {ship} [rolled from side to side|groaned in every board]. {b} was afraid, but {b.he} [held the rope|tied down the {cargo}|stayed at the captain's side].");
    t.say("[In the morning|After two days] the storm was over. {b} looked out and saw {x.0}. \"Captain!\" {b.he} cried. \"[Come and see|Look over there]!\" They [lowered the small boat|went closer] and found {x.1}. [Nobody could believe it|Everyone was amazed]: {x.2}.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("[Two weeks later|<at last>], the {ship} came home to {town}. The captain sold the {cargo} [for a good price|at the market] and gave {b} [a silver coin|a compass|a new hat]. \"You are a real sailor now,\" said Captain {a}. {b} was <happy>[, and already dreamed of the next voyage|].");
}

fn log(t: &mut Teller) {
    t.cast("a", Kind::Adult);
    t.set("ship", "<ship name>");
    t.set("cargo", "<cargo>");
    let first = t.rng().between(1, 40);
    let count = t.rng().between(3, 5);
    t.say("From the log of the {ship}, Captain {a}, with {cargo} for <town>.");
    for i in 0..count {
        t.paragraph();
        let day = number(first + i);
        t.say(&format!("Day {day}."));
        t.say("Wind from the [north|south|east|west], [weak|fresh|strong|very strong]. [Sea calm|High waves|Light rain|Thick fog|Clear sky|Snow in the night]. [All well on board|The cook is ill|We saw a ship with <colour> sails|We caught <few> fish|A sail is torn|The load is dry|Land in sight, far to the [north|south|east|west]|<few> <bird>s followed us all day|The crew sang in the evening|No land in sight].");
        t.maybe(40, "We have water for <few> more days.");
        t.maybe(25, "[I think of home|The men are tired, but in good spirits|Tomorrow we should see the lighthouse|The stars were bright tonight].");
    }
    t.paragraph();
    t.say("[Arrived in the harbour at noon|We are home|Anchor down at sunset]. [All of the cargo is safe|The {cargo} sold in an hour|Half of our load got wet, but nobody was hurt].");
}

fn journey(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Animal);
    t.set("town", "<town>");
    t.set("gift", "<treasure>");
    t.set("king", "[king|queen]");
    t.set_row(
        "q",
        &[
            [
                "the well was dry",
                "find the spring behind the mountain",
                "water ran again through the streets",
            ],
            [
                "the {king} could not sleep",
                "bring the flower that smells of dreams",
                "the {king} slept for three days",
            ],
            [
                "the bell had lost its voice",
                "ask the bell maker in the north for help",
                "the bell rang clear and loud",
            ],
            [
                "winter would not end",
                "wake the sun in its cave",
                "the snow melted and the birds came back",
            ],
            [
                "all the colours had faded",
                "fetch a jar of paint from the rainbow",
                "every roof and every flower shone",
            ],
            [
                "nobody could laugh any more",
                "find the last joke in the world",
                "even the {king} laughed for an hour",
            ],
        ],
    );
    t.say("<once>, {q.0} in {town}. [The people were worried|Nobody knew what to do|Wise men came and went, but they could not help]. \"Someone must {q.1},\" said the {king}. But [everybody was afraid|the way was long and dangerous]. Only {a}, @ <nice> {a.kind}, stepped forward. \"I will go,\" {a.he} said.");
    t.say("{a} took [some bread and cheese|a warm coat|a bag and a stick] and [@ <colour> {gift} that [{a.his} grandmother|the {king}|an old friend] gave {a.him}|@ {gift} for good luck], and left [before sunrise|the same day].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("On the [first|second|third] day, {a} met @ {b.kind} called {b} [by the road|in the forest|near a waterfall]. {b} was [hungry|lost|caught under a branch]. {a} [shared {a.his} bread with {b.him}|helped {b.him}|stopped and helped at once]. \"<thanks>,\" said {b}. \"I know these hills. I will come with you.\"");
    t.say_one(&[
        "They came to a wide river. There was no bridge. \"Hold on to me,\" said {b}, and they [swam|crossed] together[, though the water was ice-cold|].",
        "They came to a dark cave. {a} used the {gift} to [find the way|make a light|wake the echo], and {b} [listened for danger|went ahead].",
        "They came to a giant who guarded the road. \"Answer my question,\" said the giant. \"What is [stronger than iron|lighter than a feather|quicker than the wind]?\" {b} did not know, but {a} said, \"A [kind word|thought|dream].\" The giant let them pass.",
        "A storm came, and they hid [under a rock|in a hollow tree]. {a} was cold, so {b} [lay down beside {a.him}|kept {a.him} warm].",
    ]);
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("[After seven days|<at last>], they [found what they were looking for|reached the place]. {a} [had to give the {gift} away for it|did as the old people had told {a.him}|was so tired that {a.he} almost cried], but {a.he} had done it. They went home [by the shortest way|as fast as they could], and {q.2}.");
    t.say("The {king} [thanked {a}|gave a great feast]. \"What do you want as a reward?\" asked the {king}. \"[Only that {b} may stay with me|A house for {b} and me|Nothing],\" said {a}. [And so it was|And that was all].");
}
