//! Fables: two animals, what came of their ways, and a moral that fits.

use crate::{
    cast::Kind,
    lexicon::{PLACES, rule},
    teller::Teller,
};

pub(crate) fn tell(t: &mut Teller) {
    t.cast("a", Kind::Animal);
    t.cast("b", Kind::Animal);
    t.set_row("p", PLACES);
    let plots: [fn(&mut Teller); 6] = [race, repaid, greedy, liar, winter, borrowed];
    plots[t.rng().below(plots.len())](t);
}

fn moral(t: &mut Teller, morals: &[&str]) {
    t.paragraph();
    let moral = morals[t.rng().below(morals.len())];
    t.say(&format!("[The moral|The moral of the story|The lesson]: {moral}."));
}

fn race(t: &mut Teller) {
    t.set("bad", "[proud|vain|boastful|lazy]");
    t.set("goal", "[the old <tree>|the gate of the {p.0}|the far side of the hill|the bridge]");
    let judge = t.fresh(rule("animal"));
    t.set("judge", judge);
    t.say("<once>, @ {bad} {a.kind} [laughed at|made fun of] @ {b.kind}. \"You are so slow!\" said the {a.kind}. \"[I am the fastest animal in the land|Nobody can beat me|I could win with my eyes closed].\"");
    t.say("\"[Let us have a race|Then race with me|We shall see],\" said the {b.kind} <softly>. \"The first to reach {goal} wins.\"");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("All the animals came to watch. The {judge} counted to three, and they started. The {a.kind} [ran off like the wind|was far ahead in a moment], while the {b.kind} [went on step by step|did not hurry and did not stop].");
    t.say("Halfway, the {a.kind} [saw some sweet <fruit> and stopped to eat|lay down in the shade and fell asleep|stopped to look at {a.himself} in the water|stopped to tell a joke to some sheep]. \"I have so much time,\" thought the {a.kind}.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("But the {b.kind} [kept going|went on and on]. When the {a.kind} [looked up|woke up|remembered the race], the {b.kind} was already at {goal}. All the animals [cheered.|clapped.|cried, \"The {b.kind} has won!\"] The {a.kind} was [ashamed|very quiet|angry, but only with {a.himself}].");
    moral(
        t,
        &[
            "slow and steady wins the race",
            "pride comes before a fall",
            "those who laugh too early may lose",
            "it is not enough to be quick",
        ],
    );
}

fn repaid(t: &mut Teller) {
    t.set("trap", "[net|trap|deep hole|cage of a hunter]");
    t.say("<once>, @ {a.kind} was [sleeping|resting|drinking] {p.1} when a [tiny|little|small] {b.kind} [ran over {a.his} tail|woke {a.him} up|came too close]. The {a.kind} [was angry|caught {b.him} at once] and wanted to [eat {b.him}|punish {b.him}].");
    t.say("\"Please let me go,\" said the {b.kind}. \"One day I will help you.\" The {a.kind} [laughed|smiled]. \"How could you ever help me?\" {a.he} said. But {a.he} was [kind|not hungry|in a good mood] and let the {b.kind} go.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("[<few> weeks later|<one day>], the {a.kind} was caught in @ {trap}. {a.he} [pulled|cried|roared] and [pulled|kicked], but {a.he} could not get free. The {b.kind} heard {a.him} and came [running|as fast as {b.he} could].");
    t.say("\"[Stay still|Be calm|Do not be afraid],\" said the {b.kind}. {b.he} [worked all night|called all {b.his} brothers and sisters|did not rest], and [in the morning|before the hunter came] the {a.kind} was free. \"<thanks>,\" said the {a.kind}. \"I [laughed at you|did not believe you], and I was wrong.\"");
    moral(
        t,
        &[
            "no act of kindness is ever lost",
            "even a small friend can be a great help",
            "be kind, and kindness will come back to you",
        ],
    );
}

fn greedy(t: &mut Teller) {
    t.set("x", "[nuts|<fruit>|cheese|honey|corn|bread]");
    t.say("<once>, @ {a.kind} and @ {b.kind} found a [pot|sack|basket|pile] of {x} {p.1}. \"[Let us share it|Half for you and half for me],\" said the {b.kind}. But the {a.kind} was greedy and wanted it all.");
    t.set("lie", "[the farmer is coming|a hunter is near|this is not good to eat]");
    t.say("\"[Listen|Be careful|Look out],\" said the {a.kind}. \"{lie}!\" The {b.kind} [ran away|went home with nothing]. Then the {a.kind} [ate and ate|ate all the {x} alone|did not stop until it was all gone].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("Soon {a.his} belly hurt so much that {a.he} could not [move|walk|sleep]. \"Help me!\" cried the {a.kind}. The {b.kind} heard {a.him} and came back. {b.he} brought [warm tea|water|herbs] and sat with {a.him} [all night|until morning].");
    t.say("\"Why are you so good to me?\" asked the {a.kind}. \"I lied to you.\" \"[Because you needed help|A friend is a friend|I know],\" said the {b.kind}. \"[But next time we share|I hope that you will not do it again].\" [And so they did|The {a.kind} never forgot it].");
    moral(
        t,
        &[
            "who wants everything may end with a bellyache",
            "shared food tastes best",
            "greed brings no joy",
        ],
    );
}

fn liar(t: &mut Teller) {
    t.set("danger", "[wolf|fire|flood|hunter|storm]");
    t.say("<once>, a young {a.kind} called {a} [watched the sheep|lived with many others] near the {p.0}. {a} was bored. \"I know a good joke,\" {a.he} thought, and cried, \"Help! The {danger} is coming!\"");
    t.say("[All the animals|The {b.kind} and all the others] [left their work|dropped everything] and came running. But there was no {danger}. {a} laughed [until {a.his} belly hurt|loud and long]. The {b.kind} [shook {b.his} head|did not laugh|was angry]. \"[That was not funny|Do not do that again],\" {b.he} said.");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("The next day {a} did it again, and again they came. On the third day, the {danger} really came. \"Help! The {danger}!\" cried {a}. But [nobody came.|everyone thought that it was a joke.|the others only said, \"That is {a} again.\"]");
    t.say("{a} [had to run for {a.his} life|lost all that {a.he} had|got away, but only just]. \"Why did you not come?\" {a.he} asked the {b.kind}. \"[Because we did not believe you|You called us twice for nothing],\" said the {b.kind}.");
    moral(
        t,
        &[
            "nobody believes a liar, even when he tells the truth",
            "trust is easy to lose and hard to win back",
        ],
    );
}

fn winter(t: &mut Teller) {
    t.say("All summer long, the {b.kind} [worked hard|carried food home|filled the store with nuts and corn]. The {a.kind} [sang songs|lay in the sun|played the fiddle|danced in the meadow]. \"Why do you work so hard?\" {a.he} asked. \"[The days are long and warm|There is food everywhere|Come and dance with me].\"");
    t.say("\"Winter will come,\" said the {b.kind}. \"You should [work too|save some food|build a warm house].\" But the {a.kind} only [laughed|yawned|went on with {a.his} song].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("Then the winter came. [Snow lay on the {p.0}|The ground was hard as stone|The wind was cold]. The {a.kind} was hungry and had no place to sleep. {a.he} knocked at the door of the {b.kind}. \"Please give me something to eat,\" {a.he} said.");
    t.say_one(&[
        "\"Come in,\" said the {b.kind}. \"You can eat with me, but [you will sing for us every evening|in spring you will help me work].\" The {a.kind} [was happy to do so|kept {a.his} word].",
        "The {b.kind} [thought for a while|looked at {a.him}]. \"What did you do all summer?\" {b.he} asked. \"I [sang|danced|slept],\" said the {a.kind}. The {b.kind} gave {a.him} [some bread|half of {b.his} soup], and the {a.kind} learned {a.his} lesson.",
    ]);
    moral(
        t,
        &[
            "think of tomorrow while you enjoy today",
            "first work, then play",
            "who saves in summer has enough in winter",
        ],
    );
}

fn borrowed(t: &mut Teller) {
    t.set(
        "c",
        "[long tail|soft voice|<colour> coat|pair of strong wings|pair of sharp eyes|loud voice]",
    );
    t.say("<once>, there was @ {a.kind} who was not happy with {a.himself}. \"If only I had @ {c} like the {b.kind},\" {a.he} said [every day|to everyone]. \"Then everyone would [love me|look up to me|listen to me].\"");
    t.say("An old [tree|woman|king] heard {a.him} and said, \"For one day, you shall have your wish.\" And so the {a.kind} had @ {c}. How [happy|glad|proud|pleased] {a.he} was!");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("But [it was not as good as {a.he} thought|soon there was trouble]. [{a.his} friends did not know {a.him}|{a.his} own children ran away from {a.him}|{a.he} could not do what {a.he} did so well before]. <at last>, {a.he} met the {b.kind}, who said, \"I always wanted to be like you. You are so <nice>.\"");
    t.say("The {a.kind} was [surprised|silent for a long time]. When the day was over, {a.he} [was glad to be {a.himself} again|gave the {c} back with joy].");
    moral(
        t,
        &[
            "be glad to be what you are",
            "others may wish for what you have",
            "the grass is always greener on the other side",
        ],
    );
}
