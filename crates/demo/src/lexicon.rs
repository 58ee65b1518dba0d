//! The word lists that templates name as `<rule>`. An entry is itself a template.
//!
//! What a story has to remember (names, towns, animals, things) comes from short lists of short words, so that each
//! is frequent enough to be one token of a small vocabulary; the variety lies in the course of the stories.

/// The entries of a list.
///
/// # Panics
/// If no list has this name: a mistake in a template, found by the tests that tell thousands of stories.
#[rustfmt::skip]
pub(crate) fn rule(name: &str) -> &'static [&'static str] {
    match name {
        "girl name" => &[
            "Anna", "Lily", "Mia", "Rosa", "Clara", "Ella", "Nina", "Ruth", "Ivy", "Sara", "Maya", "Lena", "Zoe", "Emma",
            "Kate", "Yuki",
        ],
        "boy name" => &[
            "Tom", "Ben", "Max", "Leo", "Sam", "Oscar", "Finn", "Jack", "Hugo", "Paul", "Noah", "Emil", "Omar", "Ravi",
            "Theo", "Carl",
        ],
        "robot name" => &["Bolt", "Rusty", "Tin", "Pixel", "Cog", "Beep", "Dot", "Gizmo"],
        "animal name" => &["Pip", "Clover", "Pepper", "Fern", "Button", "Acorn", "Misty", "Moss"],
        "animal" => &[
            "fox", "rabbit", "bear", "wolf", "mouse", "owl", "turtle", "crow", "goat", "lion", "frog", "duck", "goose",
            "cat", "dog", "pig",
        ],
        "animals" => &["foxes", "rabbits", "bears", "owls", "frogs", "ducks", "cats", "dogs"],
        "town" => &["Alderby", "Mossford", "Greenhill", "Ashwood", "Northport", "Oakham", "Elmstead", "Riverton"],
        "town kind" => &["[small|quiet|pretty|busy|sleepy|little|old] [town|village|harbour town|mountain village]"],
        "day" => &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
        "season" => &["spring", "summer", "autumn", "winter"],
        "month" => &[
            "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
        ],
        "colour" => &["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "purple", "golden"],
        "size" => &["small", "big", "tiny", "large", "little", "huge"],
        "nice" => &["kind", "brave", "clever", "curious", "patient", "cheerful", "gentle", "honest", "careful", "friendly", "hopeful", "polite"],
        "bad" => &["proud", "lazy", "greedy", "selfish", "rude", "vain", "stubborn", "boastful", "impatient", "jealous"],
        "happy" => &["happy", "glad", "proud", "cheerful", "delighted", "full of joy", "pleased"],
        "sad" => &["sad", "worried", "unhappy", "upset", "disappointed", "troubled"],
        "weather" => &[
            "the sun was shining", "it was raining", "a cold wind was blowing", "thick fog lay over the fields", "snow was falling",
            "the sky was clear and blue", "dark clouds hung low", "the air was warm and still", "a storm was coming",
        ],
        "fruit" => &["apples", "pears", "plums", "cherries", "oranges", "lemons", "grapes", "berries"],
        "vegetable" => &["carrots", "onions", "potatoes", "beans", "peas", "leeks", "mushrooms", "pumpkins"],
        "food" => &[
            "bread", "soup", "cheese", "honey", "apple pie", "pancakes", "porridge", "cake", "roast potatoes", "fresh rolls", "berry jam",
            "noodles", "rice and beans", "fish stew", "ginger biscuits", "plum tart",
        ],
        "drink" => &["tea", "milk", "cocoa", "lemonade", "apple juice", "cold water", "mint tea", "coffee"],
        "toy" => &["kite", "ball", "drum", "doll", "puppet", "whistle"],
        "treasure" => &[
            "key", "ring", "map", "coin", "shell", "feather", "stone", "bell", "book", "lantern", "hat", "basket",
        ],
        "flower" => &["roses", "daisies", "tulips", "violets", "lilies", "poppies"],
        "tree" => &["oak", "willow", "pine", "birch", "apple tree", "chestnut"],
        "bird" => &["robin", "gull", "swallow", "blackbird", "crane", "magpie"],
        "ship name" => &["Swallow", "Morning Star", "Sea Rose", "Good Hope", "Silver Fish"],
        "cargo" => &["salt", "wool", "tea", "timber", "glass", "copper", "grain", "silk"],
        "then" => &["then", "after that", "next", "soon", "a little later", "before long", "a moment later"],
        "at last" => &["at last", "finally", "in the end", "after a long time", "at the end of the day"],
        "said" => &["said", "answered", "replied"],
        "softly" => &["softly", "kindly", "quietly", "with a smile", "with a laugh", "after a while", "in a low voice", "gently", "slowly"],
        "loudly" => &["loudly", "angrily", "in a loud voice", "with a frown", "at once", "without thinking"],
        "once" => &[
            "once upon a time", "once", "long ago", "one [bright|cold|quiet|windy|warm|rainy] [morning|afternoon|evening|day]", "many years ago",
            "one day in [early|late] <season>", "on a <day> in <month>", "not so long ago", "last <season>",
        ],
        "one day" => &[
            "one day", "one morning", "one evening", "one afternoon", "on <day>", "one <day> morning", "early one morning",
            "on the first day of <season>", "one [cold|warm|windy|rainy|sunny|foggy] day",
        ],
        "thanks" => &["thank you", "thank you so much", "how kind of you", "you are very kind", "I will never forget this"],
        "ending" => &[
            "from that day on, they were good friends", "they went home together and had <food> and <drink>", "and everyone slept well that night",
            "and that was the best day of the whole <season>", "they laughed all the way home", "and the story is still told in the village",
            "and nobody ever forgot it", "that night the stars were very bright",
        ],
        "few" => &["two", "three", "four", "five", "a few", "many"],
        "doing" => &[
            "eating <fruit>", "looking for <food>", "sleeping under @ <tree>", "singing to itself", "digging a hole", "carrying @ <colour> <treasure>",
            "hiding from the rain", "talking to @ <animal>", "building a nest", "drinking from a bucket", "counting stones",
        ],
        "detail" => &[
            "@ <bird> [sang|sat|called] [in the <tree>|on the roof|near the gate|above the water]", "somewhere a [dog|donkey|bell|door|child] could be heard",
            "it smelled of <food>", "it smelled of [rain|wet leaves|smoke|<flower>|the sea|fresh paint]", "the wind [played with the leaves|pulled at the curtains|came from the [north|south|east|west]]",
            "@ <animal> [ran|walked|crept] [across the road|past the wall|through the grass|into the shadow]", "[two|three|four|some] [boys|girls|old men|women|sailors] [walked by|were singing|played cards|talked about the weather]",
            "the [roofs|clouds|leaves|windows|hills] were <colour>", "@ <colour> [boat|cart|bicycle|balloon|cat] [passed|stood by the road|could be seen far away]",
            "the [clock|bell] struck [two|three|four|five|six|seven|eight|nine|ten]", "a woman sold <fruit> and <flower>", "the <tree>s [threw long shadows|moved in the wind|were full of <bird>s]",
            "an old [man|woman] was [mending a net|feeding the birds|asleep on a bench|painting a door <colour>|carrying a sack of <vegetable>]",
            "[the sun|the moon] stood [high|low] over the [hills|roofs|river|sea]", "there were <flower> [on every window|along the path|in @ <colour> pot]",
        ],
        "material" => &["wood", "iron", "glass", "paper", "brass", "stone", "clay", "silver"],
        "tool" => &["hammer", "rope", "ladder", "needle", "spade", "brush", "bucket", "lamp"],
        _ => panic!("no word list named <{name}>"),
    }
}

/// Words that a story fixes once and comes back to, each a single word: names of people, animals and robots, animals, towns, days, colours, fruit,
/// vegetables, toys, treasures and places. The demo's tokenizer has a token for each.
///
/// ```
/// assert!(fewbit_demo::remembered().any(|word| word == "Anna"));
/// ```
pub fn remembered() -> impl Iterator<Item = &'static str> {
    const LISTS: [&str; 12] = [
        "girl name",
        "boy name",
        "robot name",
        "animal name",
        "animal",
        "town",
        "day",
        "colour",
        "fruit",
        "vegetable",
        "toy",
        "treasure",
    ];
    let lists = LISTS.into_iter().flat_map(|list| rule(list).iter().copied());
    lists.chain(PLACES.iter().map(|[noun, _]| *noun))
}

/// Places as the noun and the phrase "where": `in the forest`.
pub(crate) const PLACES: &[[&str; 2]] = &[
    ["forest", "in the forest"],
    ["market", "at the market"],
    ["river", "by the river"],
    ["hill", "on the hill"],
    ["harbour", "at the harbour"],
    ["garden", "in the garden"],
    ["mill", "at the mill"],
    ["library", "in the library"],
    ["bridge", "under the bridge"],
    ["beach", "on the beach"],
    ["school", "at the school"],
    ["castle", "in the castle"],
];

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] =
    ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// A number from 0 to 199 in words.
///
/// # Panics
/// If it is larger.
pub(crate) fn number(n: usize) -> String {
    match n {
        0..20 => SMALL[n].to_owned(),
        20..100 if n.is_multiple_of(10) => TENS[n / 10].to_owned(),
        20..100 => format!("{}-{}", TENS[n / 10], SMALL[n % 10]),
        100 => "one hundred".to_owned(),
        101..200 => format!("one hundred and {}", number(n - 100)),
        _ => panic!("no words for {n}"),
    }
}
