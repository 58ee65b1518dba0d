//! Inventors and robots: a machine with a purpose, what went wrong, why, and how it was put right.

use crate::{cast::Kind, teller::Teller};

pub(crate) fn tell(t: &mut Teller) {
    t.set("town", "<town>");
    if t.rng().below(2) == 0 { invention(t) } else { robot(t) }
}

fn invention(t: &mut Teller) {
    t.cast("a", Kind::Adult);
    t.cast("b", Kind::Child);
    // A machine: what it is, what it should do, what it did instead, the part to blame.
    t.set_row(
        "m",
        &[
            ["flying bicycle", "carry letters over the hills", "flew only backwards", "chain"],
            [
                "bread machine",
                "bake ten loaves in an hour",
                "threw the dough at the ceiling",
                "spring",
            ],
            [
                "rain clock",
                "ring a bell before every shower",
                "rang all night under the clear stars",
                "copper wire",
            ],
            [
                "singing lamp",
                "light the street and sing to the children",
                "sang so loudly that nobody could sleep",
                "screw",
            ],
            [
                "walking chair",
                "carry old people up the hill",
                "walked off into the river",
                "left wheel",
            ],
            [
                "apple picker",
                "pick apples without a ladder",
                "picked the hats off people's heads",
                "long arm",
            ],
            [
                "snow plough",
                "clear the road in the morning",
                "pushed all the snow into the bakery",
                "handle",
            ],
            ["talking mirror", "tell everyone the time", "told everyone their secrets", "glass"],
            [
                "sleeping machine",
                "help tired people to fall asleep",
                "tickled them until they laughed",
                "belt",
            ],
            [
                "weather balloon",
                "measure the wind above the clouds",
                "pulled up the roof of the house",
                "rope",
            ],
            [
                "washing engine",
                "wash the clothes of the whole town",
                "turned every shirt pink",
                "pump",
            ],
        ],
    );
    t.set("why", "[too long|too short|upside down|made of <material> and not of <material>|loose|rusty|put in the wrong way round]");
    t.say("{a} was [an inventor|a famous inventor|a young inventor] in {town}. {a.his} workshop was full of [wheels and wires|tools and strange machines|springs, clocks and old maps].");
    t.say("<one day>, {a.he} [built|finished|showed everyone] @ {m.0}. It could {m.1}[, or so {a.he} hoped|]. [\"This will change the world|\"It will be a great help|\"Nobody has ever made one before],\" {a} said to {b}, the {b.kind} who [helped in the workshop|swept the floor|lived next door].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("They [took the {m.0} to the square|pushed the {m.0} out of the door|turned the big handle]. [It hummed and shook|It made a noise like a hundred bees|Smoke came out of the top]. But then it {m.2}! [People ran away|The mayor lost his hat|A dog barked|Everybody laughed], and {a} was <sad>.");
    t.say("\"[I do not understand it|Something went wrong|I checked everything twice|It worked so well last night],\" {a.he} said. They took the {m.0} back to the workshop and [looked at every part|took it apart, piece by piece|drew a plan of it].");
    t.maybe(12, "<detail>.");
    t.paragraph();
    t.say("{b} looked at the {m.3}. \"[Is this right|Should it look like this|What about this]?\" {b.he} asked. \"The {m.3} is {why}.\" {a} [put on {a.his} glasses|took a lamp|bent down]. \"You are right!\" {a.he} cried. \"[I was looking at the big things and forgot the small one|You have better eyes than I have].\"");
    t.say("They [fixed|changed|repaired] the {m.3} with [a [hammer|file|saw|pair of pliers]|a piece of <material>|a new screw and some oil]. In the [morning|evening|afternoon], they tried again. This time the {m.0} worked. It could really {m.1}.");
    t.say_one(&[
        "\"[What a wonderful machine|How clever],\" said the people of {town}. \"It was {b} who found the mistake,\" said {a}.",
        "From then on, {b} was not only a helper but an inventor too.",
        "{a} wrote in {a.his} notebook: \"Test the small parts first.\"",
        "And if you ever go to {town}, you can see the {m.0} there to this day.",
    ]);
}

fn robot(t: &mut Teller) {
    t.cast("r", Kind::Robot);
    t.cast("a", Kind::Child);
    t.set_row(
        "j",
        &[
            ["clean the streets", "swept", "broom", "leaves"],
            ["water the gardens", "watered", "watering can", "flowers"],
            ["carry the post", "carried", "bag", "letters"],
            ["guard the lighthouse", "polished", "cloth", "lamps"],
            ["count the stars", "counted", "telescope", "stars"],
            ["teach the children", "read", "book", "stories"],
            ["mend the shoes", "mended", "needle", "shoes"],
            ["feed the animals", "carried", "bucket", "turnips"],
        ],
    );
    t.say_one(&[
        "{r} was @ <size> robot made of <material> and <material>. Its job was to {j.0} in {town}.",
        "In {town} there was a robot called {r}. It had [one <colour> eye|two <colour> eyes|long thin arms|three wheels] and @ {j.2}. Every day it had to {j.0}.",
        "<once>, somebody built a robot to {j.0}. The robot was called {r}[, and it never complained|].",
    ]);
    t.say("[From morning to night|All day long|Day after day], {r} {j.1} the {j.3}. [It did not know why|It was good work|Nobody ever spoke to it]. {r} [did not feel anything|had never had a friend|knew only numbers].");
    t.paragraph();
    let plot = t.rng().below(3);
    match plot {
        0 => {
            t.say("<one day>, @ {a.kind} called {a} stopped and looked at the robot. \"[Are you never tired|Do you like your work|What do you dream about]?\" {a} asked. \"[I do not know that word|I have no answer for this question|Please say it again],\" said {r}.");
            t.say("\"[I will show you|Come with me|Then sit down for a while],\" said {a}. They sat on the wall and [looked at the sea|listened to the birds|watched the sun go down]. {a} [explained|told {r}] what [friends|dreams|songs|jokes] are. {r} [listened|made a soft sound|stored every word].");
            t.paragraph();
            t.say("The next day, {r} {j.1} the {j.3} [again|as always], but something was different. It [hummed a song|waited for {a}|made a little joke]. \"[I think that I am happy|I have learned something new|Today I know the word],\" it said.");
        }
        1 => {
            t.say("Then, <one day>, {r} stopped. [Its light went out|Its wheels did not turn|It stood still in the rain]. People said, \"It is [old|broken]. We should [buy a new one|throw it away].\" But {a}, @ <nice> {a.kind}, said, \"No! [{r} has worked for us for years|I will repair it|Let me try].\"");
            t.say("{a} opened the robot and looked inside. There was [dust everywhere|a nest of @ <bird>|a broken wheel|a loose wire]. {a} worked with a [hammer|small brush|screwdriver|pair of pliers] [for three days|until midnight]. {a.he} [cleaned every part|put in a new spring|gave it some oil].");
            t.paragraph();
            t.say("<at last>, the light came on again. \"Hello, {a},\" said {r}. \"[You saved me|What time is it? The {j.3} are waiting|Thank you].\" {a} was <happy>. The robot took its {j.2}, and {a.he} [went with it|helped it].");
        }
        _ => {
            t.say("<one day>, there was a great [storm|flood|fire] in {town}. The people [ran to the hill|did not know what to do|called for help]. {a}, a little {a.kind}, was [still in the house|alone on the roof|on the wrong side of the river].");
            t.say("{r} was made to {j.0}, not to save people. But it [put down its {j.2}|did not wait for an order] and [went straight into the danger|rolled as fast as it could]. \"Hold on to me,\" it said to {a}. [The water was high|The wind was strong|The smoke was thick], but {r} did not let go.");
            t.paragraph();
            t.say("When they were safe, everyone [cheered|thanked the robot]. \"Who told you to do that?\" asked the mayor. \"[Nobody|I told myself],\" said {r}. \"[It was the right thing|{a} was alone, and so was I].\"");
        }
    }
    t.say_one(&[
        "From that day on, {r} and {a} were friends.",
        "Today there is a [statue|picture] of {r} [in the square|in the library] of {town}.",
        "And when the work was done, {r} and {a} [sat together and looked at the stars|told each other stories].",
        "[And that is how|So that was how] a machine [became a friend|learned to smile].",
    ]);
}
