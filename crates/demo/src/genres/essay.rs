//! Short essays on what is to come.

use crate::{cast::Kind, teller::Teller};

/// Topic, who works with it, what it may bring (two), what may go wrong, what it needs.
const TOPICS: &[[&str; 7]] = &[
    [
        "artificial intelligence",
        "engineers and teachers",
        "machines that learn from examples",
        "find new medicines",
        "trust every answer without thinking",
        "good questions and honest data",
        "A machine can count, but people must decide what counts",
    ],
    [
        "artificial intelligence",
        "scientists and writers",
        "programs that understand our words",
        "translate any language in a moment",
        "let machines think for us",
        "clear rules and open minds",
        "A clever tool is only as good as the hand that holds it",
    ],
    [
        "artificial intelligence",
        "doctors and nurses",
        "computers that see what the eye misses",
        "find an illness early",
        "forget how to talk with each other",
        "patience and many tests",
        "The best machine is the one that leaves us time for each other",
    ],
    [
        "farming",
        "farmers",
        "small robots that pull weeds",
        "grow more food with less water",
        "wear out the soil",
        "rain, seeds and care",
        "A field remembers how we treat it",
    ],
    [
        "the sea",
        "sailors and fishers",
        "ships that sail with the wind again",
        "learn from the whales",
        "catch too many fish",
        "clean rivers and quiet bays",
        "What we throw into the water comes back to us",
    ],
    [
        "the city",
        "builders and mayors",
        "streets with more trees than cars",
        "walk to work in ten minutes",
        "build higher than we can climb",
        "parks, trains and good neighbours",
        "A city is made of people, not of stones",
    ],
    [
        "medicine",
        "doctors",
        "tiny machines that travel in the blood",
        "heal what we could not heal before",
        "forget that a patient needs a kind word",
        "time, research and clean water",
        "Health is more than the absence of pain",
    ],
    [
        "school",
        "teachers and children",
        "lessons under the open sky",
        "learn at our own speed",
        "only learn for the test",
        "good books and free afternoons",
        "A good question is worth ten answers",
    ],
    [
        "space travel",
        "astronauts and engineers",
        "gardens on the moon",
        "see the earth from far away",
        "forget the planet that we live on",
        "courage, fuel and long patience",
        "The stars are far, but the way begins here",
    ],
    [
        "music",
        "singers and players",
        "instruments that nobody has heard yet",
        "sing with people on the other side of the world",
        "listen without hearing",
        "silence and good ears",
        "A song lives as long as somebody sings it",
    ],
    [
        "books",
        "writers and readers",
        "libraries that fit into a pocket",
        "read any story at any time",
        "read the first page only",
        "ink, ideas and quiet evenings",
        "A book is a door, and the reader has the key",
    ],
    [
        "energy",
        "engineers",
        "wind wheels on every hill",
        "light our houses with the sun",
        "waste what we do not see",
        "copper, clever plans and good weather",
        "The cheapest light is the one that we turn off",
    ],
    [
        "work",
        "bakers, drivers and clerks",
        "machines that do the dull jobs",
        "have more time for our families",
        "value only what makes money",
        "fair pay and useful tasks",
        "Work should feed the body and not eat the soul",
    ],
    [
        "the forest",
        "foresters",
        "young trees where the fire was",
        "breathe better air",
        "cut faster than we plant",
        "time, rain and many kinds of trees",
        "Who plants a tree thinks of other people",
    ],
    [
        "robots",
        "inventors",
        "helpers that carry and lift",
        "care for the old and the ill",
        "build machines that nobody understands",
        "good rules and good batteries",
        "A robot has no heart, so we must lend it ours",
    ],
    [
        "trains",
        "drivers and travellers",
        "night trains to every country",
        "sleep in one town and wake up in another",
        "let the old lines rust",
        "steel, bridges and a clear timetable",
        "A slow journey shows more of the world",
    ],
    [
        "the weather",
        "farmers and pilots",
        "maps that show tomorrow's rain",
        "warn people before a storm",
        "believe that we can command the clouds",
        "measurements from every corner",
        "We cannot choose the wind, but we can set the sails",
    ],
    [
        "food",
        "cooks and gardeners",
        "vegetables from the roof",
        "eat well without harm to animals",
        "throw half of it away",
        "good soil and old recipes",
        "A meal is best when it is shared",
    ],
    [
        "language",
        "poets and parents",
        "new words for new things",
        "understand our neighbours",
        "lose the old words of small villages",
        "listeners as well as speakers",
        "Words are bridges",
    ],
    [
        "sport",
        "players and trainers",
        "games that everyone can play",
        "stay healthy for longer",
        "care only about winning",
        "fresh air and fair play",
        "It is good to win, and better to play well",
    ],
];

pub(crate) fn tell(t: &mut Teller) {
    t.set_row("e", TOPICS);
    t.cast("p", Kind::Adult);
    t.say_one(&[
        "The future of {e.0} is [bright|closer than we think|not written yet|in our hands|full of questions|a question for all of us|hard to see, but easy to dream about|not only a matter for {e.1}|more than {e.2}|what we make of it|uncertain, but exciting].",
        "The future of {e.0} is [bright|open|exciting|near], [if we want it|say {e.1}|but it will not come by itself|and it begins today].",
        "The future of {e.0} is [something that {e.1} talk about every day|a story that we write together|like a garden: it needs {e.5}].",
    ]);
    t.say_one(&[
        "[Today|Already|In some places] we see {e.2}, and [that is only the beginning|nobody is surprised any more|a few years ago nobody would have believed it].",
        "[In ten years|In twenty years|One day|Soon], there [will|may] be {e.2}. [Then|With their help,] we [will|could|may] {e.3}.",
        "[Many people hope|{e.1} hope|Some people believe] that we will soon {e.3}.",
        "When {e.1} [look ahead|think of tomorrow|talk about it], they [see|speak of|dream of] {e.2}.",
    ]);
    t.maybe(60, "[This is not a dream|It is good news for {e.1}|Our children will find it normal|It will change how we live and how we [learn|travel|work]].");
    t.paragraph();
    t.say_one(&[
        "But there is a [danger|risk] too. We [could|might] {e.4}. [That would be a mistake|That would help nobody|We must not let that happen].",
        "Of course, [not everything will be easy|nothing is free|there are worries as well]. If we {e.4}, [we lose more than we win|the price will be high|tomorrow will be poorer than today].",
        "[Not everyone agrees|Some people are afraid]. \"What if we {e.4}?\" asks {p}, @ {p.kind}[ from <town>|]. \"[That is a fair question|We should talk about it|Nobody should laugh at that].\"",
    ]);
    t.say("[What we need now is simple|What it takes is known|The answer is old and simple]: {e.5}. [{e.1} know this|Nobody can do it alone|Small steps are better than big words|We should start today].");
    t.maybe(75, "{e.6}.");
    t.maybe(
        30,
        "[So let us begin|And that is a good reason to hope|The rest is up to us|We will see].",
    );
}
