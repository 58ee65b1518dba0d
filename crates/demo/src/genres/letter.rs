//! Letters and postcards: where the writer is, what happened, a question, a greeting.

use crate::{cast::Kind, lexicon::PLACES, teller::Teller};

pub(crate) fn tell(t: &mut Teller) {
    t.cast("a", Kind::Child);
    t.cast("b", Kind::Child);
    t.cast("c", Kind::Adult);
    t.set_row("p", PLACES);
    t.set("town", "<town>");
    t.set("o", "<treasure>");
    t.say("Dear {b},");
    t.paragraph();
    t.say_one(&[
        "I am writing to you from {town}. [The weather is fine|It rains every day|It is warm here|There is snow everywhere], and [I am well|I miss you|we eat <food> every day].",
        "Thank you for your letter and for the {o}. [It was a nice surprise|I was very happy|I showed it to everyone].",
        "How are you? I hope that [you are well|your cold is better|school is fun]. Here in {town}, [everything is new|nothing is new|the days are long].",
        "You will not believe what happened to me in {town}!",
    ]);
    t.say_one(&[
        "Yesterday we went to the {p.0}. We [saw @ <animal>|found @ <colour> <treasure>|had a picnic with <food>|met {c} the {c.kind}], and [I fell into the water|my hat flew away|it began to rain|we laughed all day].",
        "On <day>, {c} the {c.kind} showed me how to [row a boat|milk a cow|make <food>|fix @ <tool>|plant <flower>]. [It is harder than it looks|I am getting better every day|My hands hurt, but I was proud].",
        "I have a new friend here. It is @ <animal> called <animal name>. [Every morning it waits for me {p.1}|It eats <fruit> out of my hand|It follows me everywhere].",
    ]);
    t.maybe(60, "In the evenings, we [play cards|sit by the fire|tell stories|drink <drink> and look at the stars]. [It is very quiet here|I think of you often|I wish that you were here].");
    t.maybe(60, "[When will you visit us|What do you do all day|Is your <toy> still broken|Did you finish your book|Does your brother still snore]? [Please write soon|Tell me everything|I cannot wait to hear from you].");
    t.maybe(40, "[I will be home on <day>|We come back in <month>|I send you @ <colour> <treasure> from the {p.0}].");
    t.paragraph();
    t.say("[Your friend|With love|Best wishes|Many greetings|Yours],");
    t.paragraph();
    t.say("{a}");
    t.paragraph();
    t.maybe(
        20,
        "PS: [Do not tell anyone about the {o}|The {o} is for your sister|Feed the cat, please].",
    );
}
