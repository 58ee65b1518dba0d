//! Children's tales: a hero, a wish or a trouble, an obstacle, help, and an end that answers the beginning.

use crate::{cast::Kind, lexicon::PLACES, teller::Teller};

pub(crate) fn tell(t: &mut Teller) {
    t.cast("a", Kind::Child);
    let friend = if t.rng().below(3) == 0 { Kind::Adult } else { Kind::Child };
    t.cast("b", friend);
    t.set("trait", "<nice>");
    t.set("town", "<town>");
    t.set_row("p", PLACES);
    let plots: [fn(&mut Teller); 7] = [lost, stuck, present, fear, quarrel, contest, stray];
    opening(t);
    plots[t.rng().below(plots.len())](t);
    ending(t);
}

fn opening(t: &mut Teller) {
    t.say_one(&[
        "<once>, there was @ {trait} {a.kind} [called|named] {a}. {a} lived [with {a.his} [mother|father|grandmother|aunt|two brothers|big sister]|in @ <size> house] in {town}.",
        "{a} was @ {trait} {a.kind} who lived in {town}, @ <town kind>.",
        "In the <town kind> of {town} there lived @ {trait} {a.kind}. [{a.his} name was {a}|Everyone called {a.him} {a}].",
        "{a} and {b} lived [on the same street|next door to each other|not far from each other] in {town}. {a} was [very|always|the most] {trait}[| of all the children in the street].",
        "<once>, @ {trait} {a.kind} called {a} [went for a walk|sat at the window|was playing alone|woke up early] in {town}.",
        "This is the story of {a}, @ {trait} {a.kind} from {town}.",
    ]);
    t.maybe(35, "{a} liked [to read about <animals>|to draw <flower>|to count the boats|to climb trees|to sing|to help in the kitchen|<food> more than anything|to ask questions|to watch the clouds].");
    t.maybe(25, "In {town}, [the streets were narrow and the roofs were <colour>|people sold <fruit> and <vegetable> on every corner|there was a tall <tree> in the middle of the square|the bells rang every hour].");
}

fn lost(t: &mut Teller) {
    t.set("o", "<treasure>");
    t.set("c", "<colour>");
    t.set("near", "[under the bench|behind the big <tree>|between two stones|under a pile of leaves|near the gate|in the tall grass|next to the old wall]");
    t.say("{a} had @ {c} {o}. It was a [present|gift] from {a.his} [grandfather|grandmother|uncle|best friend], and {a.he} took it [everywhere|along wherever {a.he} went].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, {a} [went to|walked to|was playing near] the {p.0}. <weather>. When {a.he} came home, the {o} was gone!");
    t.say_one(&[
        "{a} looked [in every pocket|under the bed|on the shelf and under the table], but {a.he} could not find it. {a.he} was very <sad>.",
        "\"Oh no!\" {a} cried. \"Where is my {c} {o}?\" {a.he} was <sad>.",
        "{a} felt <sad>. \"I [must|may] have lost my {o},\" {a.he} said.",
    ]);
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<then>, {a.he} met {b}, who was [carrying a basket of <fruit>|eating <food>|on the way home|looking for <flower>|waiting for the rain to stop]. \"Why are you so sad?\" asked {b}.");
    t.say("\"I [lost|cannot find] my {c} {o},\" said {a}. \"[It was a gift|I had it this morning|I looked everywhere].\"");
    t.say_one(&[
        "\"[Do not worry|Do not cry|Let us think],\" {b} said <softly>. \"Where did you see it last?\" {a} thought hard. \"{p.1}!\" {a.he} said.",
        "\"I will help you [look|find it],\" said {b}. \"Two pairs of eyes see more than one. Where were you today?\" \"{p.1},\" said {a}.",
    ]);
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("So {a} and {b} went back to the {p.0}. They looked [here and there|for a long time|left and right|in every corner]. First they found [@ <colour> <treasure>, but it was not the right one|only leaves and mud|an old shoe|nothing at all].");
    t.say("<then> {b} saw something {c} {near}. It was the {o}! {a} was <happy>. \"<thanks>, {b}!\" {a.he} said[ and gave {b.him} a hug||, and held the {o} tight].");
    t.maybe(40, "After that, {a} always [kept the {o} in a box|looked after the {o}|tied the {o} to {a.his} belt with a string].");
}

fn stuck(t: &mut Teller) {
    t.set("o", "[kite|ball|hat|paper plane|balloon]");
    t.set("c", "<colour>");
    t.set("tree", "<tree>");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, {a} [took|brought] {a.his} {c} {o} to the {p.0}. <weather>. [A strong wind came|Suddenly the wind blew hard|{a} ran too fast], and the {o} [flew up into|got stuck in] a tall {tree}.");
    t.say("\"[Come down!|Oh, my {o}!|What shall I do now?]\" cried {a}. {a.he} jumped, but the branch was too high. {a.he} [threw a stick|shook the tree|tried to climb], but [it did not help|that did not work|the {o} did not move].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("{b} [came by|was walking by|heard {a}] and [stopped|looked up]. \"[What happened|Is something wrong|Do you need help]?\" {b.he} asked. \"My {c} {o} is up in the {tree},\" said {a}.");
    let how = t.rng().below(3);
    match how {
        0 => t.say("{b} had an idea. {b.he} [ran home|went to the barn] and came back with a [long|wooden] ladder. {a} held the ladder [with both hands|and did not let go], and {b} climbed up[, step by step|]. {b.he} [reached out|stretched {b.his} arm] and took the {o} down."),
        1 => t.say("\"If you stand on my shoulders, you are as tall as a [giant|horse],\" said {b}. So {a} climbed on {b.his} shoulders. {a.he} reached up, [higher and higher|as high as {a.he} could], and took hold of the {o}."),
        _ => t.say("\"We need a long stick,\" said {b}. They looked around and found one [near the fence|by the road|behind the wall]. {a} pushed the {o} with the stick, once, twice, three times. On the third push, it fell down[ into {b.his} arms| on the grass|]."),
    }
    t.say_one(&[
        "\"<thanks>!\" said {a}. \"Do you want to play with me?\" They played with the {o} until [it was dark|dinner|the sun went down].",
        "{a} was <happy>. \"[Together we can do anything|Two are better than one|I could not do that alone],\" {a.he} said.",
        "The {o} had a small hole in it, but {a} did not mind. {b} mended it with [a bit of paper|thread|glue], and it was as good as new.",
    ]);
}

fn present(t: &mut Teller) {
    t.set("day", "[birthday|feast|party|name day]");
    t.set("g", "[grandmother|grandfather|mother|father|aunt|uncle|teacher]");
    t.set("o", "[cake|scarf|basket|chair|picture|song|birdhouse|candle|box]");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, {a} [heard|remembered] that {a.his} {g} would have @ {day} soon. {a} wanted to give {a.his} {g} something special, but {a.he} had [no money|only one coin|very little money].");
    t.say("\"What can I [do|give]?\" {a.he} asked {b}. \"A gift that you make yourself is the best gift,\" said {b}. \"Why not make @ {o}?\"");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("So {a} started to make @ {o}. [It was not easy|It was hard work|It took many days]. The first {o} was [too small|not pretty|a bit crooked]. The second {o} was [even worse|a little better|almost right]. {a} wanted to give up, but {b} said, \"[Try again|Once more|Take your time]. [Good things take time|Nobody learns in a day|You are almost there].\"");
    t.say("{a} worked [until late at night|every evening|slowly and with care]. The third {o} was [just right|beautiful|as good as any in {town}].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("When the day of the {day} came, {a} [ran|went] to {a.his} {g} and [gave {a.him} a kiss. \"This is for you|said, \"I made this for you|put the {o} on the table. \"I made it myself].\"");
    t.say_one(&[
        "Everyone looked at the {o}. \"It is the [loveliest|finest|best] {o} that I have ever seen,\" said the {g}.",
        "The {g} smiled with tears of joy. \"You made this {o} with your heart,\" the {g} said.",
        "\"What @ {o}!\" said the {g}. \"[I will keep it for ever|Nothing could please me more|Now I am the richest person in {town}].\"",
    ]);
    t.say("{a} was <happy>, and [so was {b}|{b} was too|{b} clapped].");
}

fn fear(t: &mut Teller) {
    t.set_row(
        "f",
        &[
            ["the dark", "it was only the shadow of a coat on a chair", "carried a lamp"],
            ["deep water", "the water carried {a.him} like a soft bed", "held on to a rope"],
            [
                "thunder",
                "the storm was far away and could not hurt anyone",
                "counted slowly to ten",
            ],
            ["big dogs", "the dog only wanted to play", "held out {a.his} hand"],
            ["high places", "the view from above was wonderful", "did not look down"],
            ["strangers", "the stranger told the funniest stories", "took a deep breath"],
            ["singing in front of people", "everyone clapped and cheered", "looked only at {b}"],
        ],
    );
    t.say("But there was one thing that {a} did not like. {a.he} was afraid of {f.0}.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, {b} asked, \"Will you come with me to the {p.0}?\" {a} wanted to go, but {a.he} thought of {f.0} and [shook {a.his} head|said no|went pale]. \"[I am afraid|I am scared|I would like to, but I am afraid],\" {a.he} said <softly>.");
    t.say("\"[Everyone is afraid of something|I was afraid of {f.0} too|To be brave is to be afraid and to go on],\" said {b}. \"[We will do it together|I will stay with you|Take my hand].\"");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("So they went together. {a} {f.2}. [{a.his} heart beat fast|{a.his} knees shook|At first it was hard]. [<then>|Step by step,] {a.he} [felt better|grew calm|saw that there was no danger]: [{f.1}|{f.1}].");
    t.say_one(&[
        "\"[I did it|Look at me|That was not so bad]!\" {a} cried. {b} was proud of {a.him}.",
        "{a} laughed. \"Was that all?\" {a.he} asked. \"That was all,\" said {b}.",
        "Now {a} was no longer afraid of {f.0}. {a.he} was <happy>.",
    ]);
}

fn quarrel(t: &mut Teller) {
    t.set("o", "<toy>");
    t.set("c", "<colour>");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, {a} and {b} found @ {c} {o} {p.1}. \"[It is mine|I saw it first],\" said {a}. \"No, [it is mine|I saw it first],\" said {b}. They [pulled|argued|shouted] and [pulled|argued|shouted], and [nobody would let go|neither would give in|both grew red in the face].");
    t.say_one(&[
        "Then they heard a crack. The {o} was broken. {a} and {b} were both <sad>.",
        "An old [woman|man] [heard them|came by]. \"[Why do you fight|What is this noise]?\" the old [neighbour|stranger] asked. \"You could [share it|take turns].\" They stopped and [looked at the ground|felt ashamed].",
    ]);
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("\"I am sorry,\" {a} said <softly>. \"[I should have shared|I was selfish|You are more important than @ {o}].\" \"I am sorry too,\" said {b}.");
    t.say("[Together they mended the {o} with [glue|string|a nail and @ <tool>]|They cleaned the {o} and made it shine|They sat down and made a plan]. On [Mondays|Sundays|sunny days] {a} had the {o}, and on [Fridays|Saturdays|rainy days] {b} had it. [On all other days|But most of the time] they played with it together.");
    t.maybe(
        50,
        "[A friend is worth more than @ {o}|It is more fun to share], they [learned|thought|said].",
    );
}

fn contest(t: &mut Teller) {
    t.set_row(
        "k",
        &[
            ["bake the best cake", "cake", "flour", "tasted sweet and light"],
            ["grow the biggest pumpkin", "pumpkin", "good earth", "was as big as a cart"],
            ["build the fastest boat", "boat", "wood", "flew over the water"],
            ["paint the finest picture", "picture", "paint", "seemed to move and breathe"],
            ["write the best story", "story", "paper", "made everyone laugh and cry"],
            ["fly the highest kite", "kite", "string", "touched the clouds"],
            ["build the tallest tower", "tower", "stones", "stood firm in the wind"],
        ],
    );
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, there was a contest in {town}. Who could {k.0}? The prize was [@ <colour> <treasure>|a bag of gold coins|a basket of <fruit>]. {a} wanted to win, and so did {b}.");
    t.say("{a} worked [all day|from morning to night|for a whole week] on {a.his} {k.1}. But then [{a.he} had no more {k.2}|the rain spoiled the {k.2}|somebody took the {k.2}]. \"Now I cannot finish,\" {a.he} said.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("{b} saw that {a} was <sad>. {b.he} had [more {k.2} than {b.he} needed|plenty of {k.2}|just enough {k.2} for two]. {b.he} thought about the prize. Then {b.he} [went to {a}|took half of the {k.2}] and said, \"[Here, take this|You can have half of mine|It would be no fun without you].\" \"<thanks>,\" said {a}.");
    t.say("When the day came, [everybody in {town}|a big crowd|the judge with the <colour> hat] looked at each {k.1}. The {k.1} of [{a}|{b}|{a} and the {k.1} of {b}] {k.3}.");
    t.say("[\"This is the winner|\"I have never seen a better {k.1}],\" said the judge. But {a} and {b} [shared the prize|only laughed, for they had both won a friend|took the prize together].");
}

fn stray(t: &mut Teller) {
    t.set("x", "[puppy|kitten|duckling|lamb|little owl|young hedgehog|baby rabbit]");
    t.set("n", "<animal name>");
    t.set("hurt", "[leg|paw|ear|foot]");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("<one day>, {a} heard a [small sound|soft cry|strange noise] {p.1}. {a.he} [looked around|bent down|moved the leaves away] and found @ {x}. It was [wet and cold|hungry and thin|all alone], and its {hurt} was hurt.");
    t.say("\"You poor thing,\" said {a}. {a.he} [wrapped the {x} in {a.his} coat|lifted it up with care|gave it some water] and took it to {b}[, who knew a lot about animals|]. {b} [looked at the {hurt}|washed the {hurt}] and [tied a clean cloth around it|said that it would heal].");
    t.say("\"It needs [rest and good food|milk and a warm bed|time],\" {b} said. \"And it needs a name.\" \"I will call it {n},\" said {a}.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("Every day {a} [fed {n}|gave {n} something to eat|sat with {n}] and [sang to it|told it stories|kept it warm]. After <few> [days|weeks] the {hurt} was well again, and {n} could [run|jump|walk without pain].");
    t.say_one(&[
        "{a} opened the door, but {n} did not want to leave. It [sat down at {a.his} feet|stayed by {a.his} side]. {a} was <happy>.",
        "Then it was time to say goodbye. {a} took {n} back to the {p.0}. {n} looked back once and [ran|went] away. {a} was sad and glad at the same time.",
        "One night, [there was a fire|a thief came|the water rose]. {n} made so much noise that everyone woke up. \"{n} saved us!\" cried {a}.",
    ]);
}

fn ending(t: &mut Teller) {
    if t.rng().below(100) < 55 {
        t.say_one(&[
            "<ending>.",
            "<at last>, {a} and {b} [sat down|went home] and [ate <food>|drank <drink>|talked about the day].",
            "{a} [learned|knew now] that [a good friend is the best help|it is good to ask for help|small things can be important|it is never too late to be kind].",
            "[That evening|That night], {a} told the whole story at home, and [everyone listened|nobody said a word|they all smiled].",
        ]);
    }
}
