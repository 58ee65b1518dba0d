//! Walks and collections: one thing after another is met, and all of it is told again at the end in the
//! same order, so that only a reader who remembers gets it right.

use crate::{
    cast::Kind,
    lexicon::{PLACES, number},
    teller::Teller,
};

pub(crate) fn tell(t: &mut Teller) {
    match t.rng().below(3) {
        0 => stroll(t),
        1 => packing(t),
        _ => chain(t),
    }
}

/// Binds `x0`, `x1`, … to phrases that differ from each other.
fn collect(t: &mut Teller, count: usize, phrase: &str) {
    for i in 0..count {
        let key = format!("x{i}");
        t.set(&key, phrase);
        while (0..i).any(|j| t.get(&format!("x{j}")) == t.get(&key)) {
            t.set(&key, phrase);
        }
    }
}

/// "the x0, the x1 and the x2", with the given word before each.
fn list(before: &str, count: usize) -> String {
    let items: Vec<String> = (0..count).map(|i| format!("{before}{{x{i}}}")).collect();
    format!("{} and {}", items[..count - 1].join(", "), items[count - 1])
}

fn stroll(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Adult);
    t.set_row("p", PLACES);
    let count = t.rng().between(3, 5);
    collect(
        t,
        count,
        "[<size>|white|grey|black|brown|old|young|sleepy|hungry|funny|thin|fat|shy|noisy|proud] [<animal>|<bird>]",
    );
    t.say("[<one day>|<once>], {a} went for a walk [to the {p.0}|from the {p.0} to the church|alone|with {a.his} <toy>]. <weather>.");
    for i in 0..count {
        let opener = [
            "First, {a.he}",
            "Then {a.he}",
            "After that, {a.he}",
            "A little later, {a.he}",
            "At the end, {a.he}",
        ];
        t.say(&format!("{} [saw|met|found|passed|heard] @ {{x{i}}} that [was <doing>|had lost its [way|home|dinner|friend]|looked at {{a.him}} with [big|bright|sad|curious] eyes|did not move].", opener[i]));
        t.maybe(15, "<detail>.");
        t.maybe(25, "\"[Are you lost|Who are you|Where are you going|How do you do]?\" {a.he} asked, but there was no answer.");
    }
    t.paragraph();
    t.say("[At home|In the evening|When {a.he} came back], {b} the {b.kind} asked, \"What did you see today?\"");
    t.say(&format!("\"I saw {},\" said {{a}}. [\"What a walk!\"|\"And tomorrow I will go again.\"|\"That is a lot for one day,\" said {{b}}.|{{b}} [smiled|nodded|could hardly believe it].]", list("@ ", count)));
}

fn packing(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.set("town", "<town>");
    let count = t.rng().between(3, 5);
    collect(
        t,
        count,
        "[<colour>|<size>|old|new|pretty|broken|heavy] [<treasure>|<toy>|lamp|blanket|cup|spoon|pillow|jacket]",
    );
    t.set("n", &number(count));
    t.say("{a} [packed {a.his} bag for a journey to {town}|moved to {town} with {a.his} family|wanted to visit {a.his} aunt in {town}]. \"[Take only what you need|You can take {n} things],\" said {a.his} [mother|father].");
    t.say(&format!("So {{a}} took {}.", list("@ ", count)));
    t.say("[The bag was heavy|The bag was full|It was not easy to choose|{a.he} thought about it for an hour]. <detail>.");
    t.paragraph();
    t.set("all", &list("the ", count));
    t.say("[On the train|On the ship|On the way], {a.he} opened the bag and counted. [Everything was there|Nothing was missing]: {all}.");
    let lost = t.rng().below(count);
    t.say(&format!("But when {{a}} came to {{town}}, the {{x{lost}}} was gone. [It was still on the seat|@ <animal> had taken it|{{a.he}} had left it at the station|The wind had carried it off]."));
    t.set("left", &number(count - 1));
    t.say("[Now there were only {left} things in the bag|{left} things were left]. [{a} was <sad>|{a} was not sad for long|\"I will find it,\" said {a}].");
}

fn chain(t: &mut Teller) {
    // Each helper asks for something from the next one, and the way back pays them all.
    t.cast("a", Kind::Child);
    let givers = [
        "cow", "farmer", "baker", "miller", "hen", "tree", "river", "smith", "weaver", "sheep",
        "bee", "tailor",
    ];
    let goods = [
        "milk", "hay", "bread", "flour", "eggs", "apples", "water", "nails", "cloth", "wool",
        "honey", "thread",
    ];
    let count = t.rng().between(2, 4);
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < count {
        let next = t.rng().below(givers.len());
        if !chosen.contains(&next) {
            chosen.push(next);
        }
    }
    for (i, &c) in chosen.iter().enumerate() {
        t.set(&format!("g{i}"), givers[c]);
        t.set(&format!("w{i}"), goods[c]);
    }
    t.set("end", "[a song|a dance|a story|a kiss on the cheek|a funny joke|a day of work]");
    t.say("<once>, {a}, @ <nice> {a.kind}, [needed|wanted] some {w0}. So {a.he} went to the {g0}. \"Please give me some {w0},\" said {a}.");
    for i in 1..count {
        t.say(&format!("\"[First|If you want {{w{}}}, first] bring me some {{w{i}}},\" said the {{g{}}}. So {{a}} went to the {{g{i}}} and asked for {{w{i}}}.", i - 1, i - 1));
    }
    t.say(&format!("\"I will give you {{w{0}}} for {{end}},\" said the {{g{0}}}. [That was easy|{{a}} laughed].", count - 1));
    t.paragraph();
    t.say(&format!("So {{a}} gave the {{g{0}}} {{end}} and got {{w{0}}}.", count - 1));
    for i in (1..count).rev() {
        t.say(&format!("{{a.he}} gave the {{w{i}}} to the {{g{0}}} and got {{w{0}}}.", i - 1));
    }
    t.say("[<at last>, {a} had {w0}|And so {a} came home with the {w0}|That is how {a} got {w0} without a single coin].");
}
