//! Recipes and instructions: what is needed, the steps in an order that makes sense, a last piece of advice.

use crate::{cast::Kind, teller::Teller};

pub(crate) fn tell(t: &mut Teller) {
    match t.rng().below(3) {
        0 => soup(t),
        1 => baking(t),
        _ => craft(t),
    }
}

fn soup(t: &mut Teller) {
    t.set("v", "<vegetable>");
    let other = t.fresh(crate::lexicon::rule("vegetable"));
    t.set("w", other);
    t.set("n", "[two|three|four|five|six]");
    t.cast("a", Kind::Adult);
    t.say("[How to cook|This is how {a} the {a.kind} makes|A simple recipe for] a soup of {v} and {w}.");
    t.paragraph();
    t.say("You need {n} {v}, [some|a handful of|two cups of] {w}, [a little salt|salt and pepper|a spoon of butter], and [a pot of water|a litre of water].");
    t.paragraph();
    t.say("First, wash the {v} and [cut them into small pieces|peel them]. Then [heat the water|put the pot on the fire] and [wait until it boils|add the salt]. Put in the {v} and cook them for [ten|fifteen|twenty] minutes. After that, add the {w} and [stir well|stir slowly|cover the pot]. [Cook it all until it is soft|Wait another ten minutes]. Finally, [taste it|add some herbs|let it cool a little] and serve it with [fresh bread|a slice of bread and cheese|a smile].");
    t.maybe(60, "[Be careful, the pot is hot|It tastes even better on the next day|{a} says that the secret is [time|good {v}|a spoon of honey]|It is enough for {n} people].");
}

fn baking(t: &mut Teller) {
    t.set("f", "<fruit>");
    t.set_row(
        "k",
        &[
            ["cake", "a round tin", "forty"],
            ["pie", "a flat dish", "thirty"],
            ["bread", "a long tin", "fifty"],
            ["biscuits", "a baking tray", "fifteen"],
            ["pancakes", "a hot pan", "five"],
        ],
    );
    t.say("[How to make {k.0} with {f}|A recipe for {k.0} with {f}|{k.0} with {f}, the easy way].");
    t.paragraph();
    t.say("Take [two|three|four] cups of flour, [two|three] eggs, [a cup of milk|a little butter|half a cup of sugar], and a [bowl|handful|basket] of {f}.");
    t.paragraph();
    t.say("First, mix the flour and the eggs [in a big bowl|with a wooden spoon]. Next, [add the milk slowly|stir until it is smooth|let it rest for an hour]. Wash the {f}, [cut them in half|take out the stones|dry them], and put them [on top|into the bowl]. Then put everything into {k.1}, and bake for {k.2} minutes. [Do not open the oven too early|Look at it from time to time|Wait until it is golden brown].");
    t.say("[Let it cool|Put some sugar on top|Serve it warm], and [share it with your friends|eat it with <drink>|enjoy it].");
}

fn craft(t: &mut Teller) {
    t.set_row(
        "c",
        &[
            [
                "build a kite",
                "paper, two thin sticks, glue and a long string",
                "tie the two sticks together as a cross",
                "glue the paper over the sticks",
                "tie the string to the middle",
                "Run against the wind, and your kite will rise",
            ],
            [
                "plant a tree",
                "a young tree, a spade and some water",
                "dig a deep hole",
                "put the young tree into the hole",
                "fill the hole with earth and water it well",
                "In ten years you can sit in its shade",
            ],
            [
                "make a fire",
                "dry wood, some paper and a match",
                "make a circle of stones",
                "put the paper and the small sticks in the middle",
                "light the paper and add bigger wood, piece by piece",
                "Never leave a fire alone, and put it out with water",
            ],
            [
                "mend a shirt",
                "a needle, thread and a button",
                "pull the thread through the needle",
                "put the button in its place",
                "go up and down through the holes",
                "Make a knot at the end, so that it will hold",
            ],
            [
                "wash a dog",
                "a tub, warm water, soap and patience",
                "fill the tub with warm water",
                "put the dog into the tub and talk to it kindly",
                "wash it with soap, but keep away from the eyes",
                "Step back when it shakes itself",
            ],
            [
                "write a letter",
                "paper, a pen and a stamp",
                "write the date and the name of your friend",
                "tell what you did and ask how your friend is",
                "sign your name at the end",
                "Do not forget the stamp",
            ],
            [
                "catch a fish",
                "a rod, a line, a hook and some bread",
                "put a piece of bread on the hook",
                "throw the line into the water",
                "sit still and wait",
                "A good fisher is a patient one",
            ],
            [
                "make tea",
                "a pot, a cup, fresh water and tea leaves",
                "boil the water",
                "put the leaves into the pot and pour the water over them",
                "wait for four minutes",
                "Add some honey if you like it sweet",
            ],
            [
                "build a house for birds",
                "six boards, nails and a hammer",
                "cut a round hole into one board",
                "nail the boards together",
                "hang the house on a tree",
                "In spring, with some luck, a family of birds will move in",
            ],
            [
                "clean a window",
                "a bucket of water, a cloth and old paper",
                "wash the glass with the wet cloth",
                "wipe off the water from top to bottom",
                "rub the glass with the paper until it is dry",
                "Now you can see the whole street again",
            ],
        ],
    );
    t.say(
        "[How to {c.0}|It is easy to {c.0}|Anyone can learn to {c.0}]. You [need|will need] {c.1}.",
    );
    t.paragraph();
    t.say("[First, {c.2}|Begin like this: {c.2}|To begin, {c.2}]. [Then|Next], {c.3}. [After that|When that is done], {c.4}. [Take your time|Do not hurry|Ask somebody to help you|If it goes wrong, try again]. {c.5}.");
}
