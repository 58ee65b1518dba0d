//! What the first study concluded, held against the numbers of this run.

use fewbit::eval::units::significant;

use crate::{
    measure::Measured,
    policies::{ADAPTIVE, EIGHT, FLOAT, FOUR, FOUR_GPTQ, PLAN_GOOD, PLAN_SMALL},
};

/// A machine's caches may hold a model of fewer bytes.
const IN_CACHES: usize = 64 << 20;

/// One paragraph, a sentence each.
pub fn of(results: &[Measured]) -> Vec<String> {
    let get = |name: &str| {
        results.iter().find(|r| r.name == name).expect("every policy of the study is measured")
    };
    let kl = |r: &Measured| r.divergence.kl.value;
    let number = |x: f64| significant(x, 3);
    let [float, eight, four, adaptive] = [FLOAT, EIGHT, FOUR, ADAPTIVE].map(get);
    let [four_gptq, small, good] = [FOUR_GPTQ, PLAN_SMALL, PLAN_GOOD].map(get);

    let mut words = vec![];
    words.push(format!(
        "The first study found 8 bits 2.29 times as fast as floats; here it is {} times: {}.",
        number(eight.speed_up),
        match eight.speed_up {
            x if x >= 2.29 => "it held, and more",
            x if x >= 1.1 => "it held in kind, not in size",
            _ => "it did not hold",
        },
    ));
    words.push(format!(
        "It found 4 bits no faster than floats; here they are {} times as fast{}: {}.",
        number(four.speed_up),
        match four.speed_up / eight.speed_up {
            ratio if ratio >= 1.05 => format!(", and {} times as fast as 8 bits", number(ratio)),
            ratio if ratio <= 0.95 => {
                format!(", though 8 bits are {} times as fast as they", number(1.0 / ratio))
            }
            _ => ", as fast as 8 bits".into(),
        },
        if four.speed_up > 1.05 {
            "it did not hold; it was a matter of kernels, not of bits"
        } else {
            "it held"
        },
    ));
    words.push(format!(
        "Its adaptive plan takes {} bits a weight for a KL divergence of {}; uniform 8 bits take {} for {}: {}.",
        number(adaptive.bits_per_weight),
        number(kl(adaptive)),
        number(eight.bits_per_weight),
        number(kl(eight)),
        if kl(eight) <= kl(adaptive) {
            "smaller and nearer to the floats, so that the adaptive plan has no place"
        } else {
            "the adaptive plan is nearer to the floats, at its price"
        },
    ));
    words.push(format!(
        "With {} bits a weight our planner reaches {}, which is {} times the adaptive plan's divergence at {} of its size.",
        number(good.bits_per_weight),
        number(kl(good)),
        number(kl(good) / kl(adaptive)),
        percent(good.bits_per_weight / adaptive.bits_per_weight),
    ));
    words.push(format!(
        "At the bytes of uniform 4 bits, plain rounding has a divergence of {}, GPTQ {}, and GPTQ under our plan {}.",
        number(kl(four)),
        number(kl(four_gptq)),
        number(kl(small)),
    ));
    if float.memory < IN_CACHES {
        words.push(
            "This model fits into the caches of most machines: its times show arithmetic and overhead, not the memory traffic that few bits save; larger models gain more."
                .into(),
        );
    }
    words
}

fn percent(share: f64) -> String {
    fewbit::eval::units::percent(share, 0)
}
