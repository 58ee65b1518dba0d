//! Scenes: a room or a street with things in it, each with a colour and a place, and questions about them.

use crate::{cast::Kind, lexicon::PLACES, teller::Teller};

const SPOTS: &[&str] = &[
    "on the table",
    "under the bed",
    "next to the door",
    "on the shelf",
    "behind the curtain",
    "by the window",
    "in the corner",
    "on the floor",
    "above the fireplace",
    "in an open box",
    "under a chair",
    "between two books",
];
const THINGS: &[&str] = &[
    "lamp", "cup", "clock", "chair", "vase", "carpet", "picture", "candle", "bowl", "hat",
    "basket", "bottle", "mirror", "box",
];

pub(crate) fn tell(t: &mut Teller) {
    if t.rng().below(5) < 3 { room(t) } else { evening(t) }
}

fn room(t: &mut Teller) {
    t.cast("a", Kind::Adult);
    t.cast("b", Kind::Child);
    let count = t.rng().between(3, 5);
    t.say("[This is|Let me show you|Nobody had seen] the [room|kitchen|workshop|attic|little shop] of {a}[, the {a.kind}|, the old {a.kind} of <town>|]. [It was quiet|It was full of light|It smelled of <food>|The walls were <colour>|A fire was burning].");
    for i in 0..count {
        let (thing, spot) = (t.fresh(THINGS), t.fresh(SPOTS));
        t.set(&format!("t{i}"), thing);
        t.set(&format!("s{i}"), spot);
        t.set(&format!("c{i}"), "[<colour>|<colour>|broken|tiny|huge|old|new]");
        t.say(&format!("[There was @ {{c{i}}} {{t{i}}} {{s{i}}}|{{s{i}}} [stood|was|lay] @ {{c{i}}} {{t{i}}}|@ {{c{i}}} {{t{i}}}[| from <town>] [stood|was|lay] {{s{i}}}]."));
        t.maybe(30, "[It was a present from <town>|It was older than {a}|{a} had made it {a.himself}|It had cost <few> coins|Nobody knew where it came from|A <bird> was painted on it|It shone in the light].");
    }
    t.paragraph();
    let first = t.rng().below(count);
    let second = (first + 1) % count;
    t.say(&format!("\"Where is the {{t{first}}}?\" asked {{b}}. \"The {{t{first}}} is {{s{first}}},\" said {{a}}."));
    t.say(&format!("\"And what is {{s{second}}}?\" \"@ {{c{second}}} {{t{second}}},\" [said|answered] {{a}}. \"[You have good eyes|You should know that|Look for yourself].\""));
    t.maybe(50, "{b} [looked at everything|touched nothing|wanted to stay for ever|promised to come back on <day>].");
}

fn evening(t: &mut Teller) {
    t.set_row("p", PLACES);
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Adult);
    t.say("It was a [quiet|cold|warm|long|windy] [evening|night|afternoon] in <month>. <weather>. {a} [sat|stood|was] {p.1} [with {b}, the {b.kind}|and waited for {b}, the {b.kind}].");
    for _ in 0..t.rng().between(3, 6) {
        t.say("<detail>.");
    }
    t.paragraph();
    t.set_row(
        "q",
        &[
            [
                "What are you thinking about",
                "[Of <food>|Of the <season>|Nothing at all|Of my old <toy>]",
            ],
            ["Are you cold", "[Only a little|No, I have my <colour> coat|Yes, but I do not mind]"],
            [
                "Can you hear that",
                "[It is @ <bird>, I think|It is only the wind|Yes, somebody is singing]",
            ],
            ["Do you see the first star", "[Yes, just above the <tree>|Not yet|I see two of them]"],
            [
                "What are you looking at",
                "[The <colour> roofs|The <bird> up there|A small light, far away]",
            ],
        ],
    );
    t.say("\"{q.0}?\" asked {b}. \"{q.1},\" [said|answered] {a}[| <softly>].");
    t.say("They [said nothing more|talked about <flower> and <animals>|shared some <food>|listened for a long time|walked home in the dark]. [It was enough|{a} never forgot that evening|The <town> lights were far away|Tomorrow would be <day>].");
}
