//! Conversations: at the market (with sums that are right), on the road, and about what is better.

use crate::{
    cast::Kind,
    lexicon::{PLACES, number},
    teller::Teller,
};

pub(crate) fn tell(t: &mut Teller) {
    match t.rng().below(4) {
        0 => market(t),
        1 => directions(t),
        2 => opinion(t),
        _ => bedtime(t),
    }
}

fn market(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Adult);
    let (many, price) = (t.rng().between(2, 9), t.rng().between(2, 9));
    let total = many * price;
    let paid = (total / 10 + 1) * 10;
    t.set("x", "[<fruit>|<vegetable>]");
    t.set("many", &number(many));
    t.set("price", &number(price));
    t.set("total", &number(total));
    t.set("paid", &number(paid));
    t.set("back", &number(paid - total));
    t.say("{a} [went|was sent] to the market to buy [some|{many}] {x}. {b} [stood behind a table.|had the best {x} in <town>.|called out, \"Fresh {x}!\"]");
    t.paragraph();
    t.say("\"Good [morning|day],\" said {a}. \"How much are the {x}?\"");
    t.paragraph();
    t.say("\"{price} coins [each|for one],\" said {b}. \"[They are very fresh.|I picked them this morning.|Would you like to try one?]\"");
    t.paragraph();
    t.say("\"Then I [would like|will take] {many}, please,\" said {a}.");
    t.paragraph();
    t.say("{b} put {many} {x} into a [bag|basket]. \"{many} times {price} is {total},\" {b.he} said. \"That makes {total} coins.\"");
    t.say("{a} gave {b.him} {paid} coins and got {back} back. \"[Thank you|Goodbye|Have a nice day],\" said {b}. [\"Come again|\"Greet your mother from me|\"Be careful on the way home]!\"");
}

fn directions(t: &mut Teller) {
    t.cast("a", Kind::Adult);
    t.cast("b", Kind::Child);
    t.set_row("p", PLACES);
    t.say("A [traveller|stranger|tired man|tall woman] came to <town> and stopped [at the corner|in front of {b}'s house]. {b}, @ <nice> {b.kind}, was [playing|sitting on the steps].");
    t.paragraph();
    t.say("\"Excuse me,\" said the visitor. \"How do I get to the {p.0}?\"");
    t.paragraph();
    t.say("\"[It is not far|That is easy|It is a long way],\" said {b}. \"First you go [straight on|down this street|up the hill] until you see [@ <colour> house|a big <tree>|the fountain|the shop with the <colour> door]. Then you turn [left|right]. After [two|three|four] [houses|streets|minutes] you [cross the bridge|pass the bakery|come to a gate]. The {p.0} is [on the left|on the right|right behind it].\"");
    t.paragraph();
    t.say_one(&[
        "\"[I will never remember that|That is too much for my old head],\" the visitor laughed. \"Then I will come with you,\" said {b}. And they went to the {p.0} together.",
        "\"<thanks>,\" said the visitor. \"And what is there to see at the {p.0}?\" \"{a} the {a.kind} is there,\" said {b}. \"[Everybody wants to see {a.him}|{a.he} tells the best stories].\"",
        "The visitor wrote it all down, thanked {b}, and gave {b.him} @ <colour> <treasure>.",
    ]);
}

fn opinion(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Child);
    t.set_row(
        "v",
        &[
            ["summer", "winter", "you can swim in the lake", "you can build a house of snow"],
            ["cats", "dogs", "a cat is soft and quiet", "a dog is always glad to see you"],
            [
                "the sea",
                "the mountains",
                "you can hear the waves at night",
                "you can see the whole world from above",
            ],
            [
                "books",
                "games",
                "a book takes you anywhere",
                "you can play a game with your friends",
            ],
            ["tea", "cocoa", "tea wakes you up", "cocoa makes you warm inside"],
            [
                "morning",
                "evening",
                "the birds sing and the air is fresh",
                "the work is done and the stars come out",
            ],
            ["trains", "ships", "a train is never late", "a ship does not need a road"],
            [
                "the sun",
                "the moon",
                "the sun makes everything grow",
                "the moon shines when it is dark",
            ],
            [
                "apples",
                "cherries",
                "you can eat apples all year",
                "you can hang cherries on your ears",
            ],
        ],
    );
    t.say("{a} and {b} [were sitting on a wall|walked home from school|had nothing to do|could not agree]. \"I like {v.0} [best|more than {v.1}],\" said {a}.");
    t.paragraph();
    t.say("\"[Why|Really|Do you]?\" asked {b}. \"I like {v.1} [best|much more].\"");
    t.paragraph();
    t.say("\"Because {v.2},\" said {a}. \"[Everyone knows that.|What could be better?|And that is not all.|I have thought so since I was little.]\"");
    t.paragraph();
    t.say("\"[But|That is true, but|Maybe, but] {v.3},\" said {b}. \"[Think about it|You should try it|I would never change my mind].\"");
    t.paragraph();
    t.say_one(&[
        "{a} thought about it. \"[You are right|That is true],\" {a.he} said. \"But why choose? We can have both {v.0} and {v.1}.\" And {b} [had to laugh|agreed].",
        "They [argued|talked] until [it was dark|dinner was ready]. Then they asked {a}'s grandmother. \"I like {v.0} and {v.1},\" she said. \"But most of all I like [quiet children|it when you are here].\"",
        "\"Let us ask a third person,\" said {a}. They asked [the postman|the teacher|an old fisher]. \"[{v.0}|{v.1}], of course,\" was the answer, and they all laughed.",
    ]);
}

fn bedtime(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.set("g", "[mother|father|grandmother|grandfather]");
    t.set_row(
        "w",
        &[
            [
                "Why is the sky blue",
                "the air plays with the light of the sun, and it likes blue best",
            ],
            [
                "Where does the sun go at night",
                "the earth turns, and the sun shines for the people on the other side",
            ],
            ["Why do birds fly south", "it is warmer there, and there is enough to eat"],
            ["What are clouds made of", "they are made of tiny drops of water"],
            ["Why do leaves fall", "the tree lets them go, so that it can rest in winter"],
            ["How do fish sleep", "they stay very still, with their eyes open"],
            [
                "Why is the sea salty",
                "the rivers carry a little salt from the land, year after year",
            ],
            ["How do bees find home", "they remember the way and follow the sun"],
            ["Why do cats purr", "that is how they say that they are happy"],
            ["What is an echo", "it is your own voice that comes back from the wall"],
        ],
    );
    t.say("It was [late|dark outside|time for bed], but {a} could not sleep. \"{w.0}?\" {a.he} asked {a.his} {g}.");
    t.paragraph();
    t.say("\"[That is a good question|Let me think|I asked the same when I was little],\" said the {g}. \"I think that {w.1}.\"");
    t.paragraph();
    t.say("\"And who [told you that|found that out]?\" asked {a}. \"[People who asked questions like you|My own {g}|Somebody who looked very carefully],\" was the answer.");
    t.paragraph();
    t.say("{a} [thought about it for a while|looked out of the window|closed {a.his} eyes]. \"[One more question|And one last thing]?\" {a.he} [said|asked]. \"Tomorrow,\" said the {g} <softly>. [But {a} was already asleep.|And the light went out.|\"Good night, {a}.\"]");
    let closed = t.rng().below(2) == 0;
    t.say(if closed {
        "[Outside, the wind was quiet|@ <bird> called far away|The moon looked in]."
    } else {
        ""
    });
}
