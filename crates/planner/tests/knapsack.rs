//! The best plan against all plans, on small random problems.

use fewbit_planner::{
    Budget, Choice, Frontier, PlannerError, Problem, Selection, Unit, best_uniform, neighbours,
    pareto, solve,
};
use proptest::prelude::*;

/// A few units with a few choices each, some forbidden, some dominated, some with equal sizes.
fn problems() -> impl Strategy<Value = Problem> {
    let choice = (0u64..60, 0u64..40, -2.0..20.0f64, prop::bool::weighted(0.85)).prop_map(
        |(bytes, nanoseconds, loss, allowed)| Choice { bytes, nanoseconds, loss, allowed },
    );
    let unit = prop::collection::vec(choice, 1..5).prop_map(|mut choices| {
        choices[0].allowed = true;
        choices
    });
    prop::collection::vec(unit, 1..6).prop_map(|units| {
        let unit = |(i, choices)| Unit::new(format!("unit {i}"), choices as Vec<Choice>);
        Problem::new(units.into_iter().enumerate().map(unit).collect()).unwrap()
    })
}

/// Every plan there is.
fn all(problem: &Problem) -> Vec<Selection> {
    let mut plans = vec![vec![]];
    for unit in problem.units() {
        let extend = |plan: &Vec<usize>| {
            unit.allowed().map(|(i, _)| [plan.clone(), vec![i]].concat()).collect::<Vec<_>>()
        };
        plans = plans.iter().flat_map(extend).collect();
    }
    plans.into_iter().map(|plan| problem.selection(plan).unwrap()).collect()
}

fn least(plans: &[Selection], budget: &Budget) -> Option<f64> {
    let within = plans.iter().filter(|s| budget.allows(s.bytes, s.nanoseconds));
    within.map(|s| s.loss).min_by(f64::total_cmp)
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs() + b.abs())
}

proptest! {
    #[test]
    fn exact_is_what_brute_force_finds(problem in problems(), bytes in 0u64..300) {
        let (plans, budget) = (all(&problem), Budget::bytes(bytes));
        match (solve(&problem, &budget), least(&plans, &budget)) {
            (Ok(solution), Some(best)) => {
                prop_assert!(solution.selection.bytes <= bytes);
                prop_assert_eq!(solution.slack, Some(0));
                prop_assert!(same(solution.selection.loss, best));
                let again = problem.selection(solution.selection.choices.clone()).unwrap();
                prop_assert_eq!(again, solution.selection);
            }
            (Err(PlannerError::Impossible { budget, least, .. }), None) => {
                prop_assert_eq!(budget, bytes);
                prop_assert_eq!(Some(least), plans.iter().map(|s| s.bytes).min());
            }
            (found, best) => prop_assert!(false, "{found:?} against {best:?}"),
        }
    }

    #[test]
    fn time_is_a_budget_too(problem in problems(), nanoseconds in 0u64..200) {
        let (plans, budget) = (all(&problem), Budget::nanoseconds(nanoseconds));
        let found = solve(&problem, &budget).ok().map(|s| s.selection.loss);
        let best = least(&plans, &budget);
        prop_assert_eq!(found.is_some(), best.is_some());
        prop_assert!(found.zip(best).is_none_or(|(a, b)| same(a, b)));
    }

    #[test]
    fn both_limits_are_kept_and_a_plan_is_found_where_there_is_one(
        problem in problems(), bytes in 0u64..300, nanoseconds in 0u64..200,
    ) {
        let budget = Budget { bytes: Some(bytes), nanoseconds: Some(nanoseconds) };
        let plans = all(&problem);
        let found = solve(&problem, &budget);
        prop_assert_eq!(found.is_ok(), least(&plans, &budget).is_some(), "{:?}", found);
        if let (Ok(solution), Some(best)) = (found, least(&plans, &budget)) {
            let s = &solution.selection;
            prop_assert!(budget.allows(s.bytes, s.nanoseconds));
            prop_assert!(s.loss >= best - 1e-9);
            prop_assert!(solution.slack != Some(0) || same(s.loss, best));
        }
    }

    #[test]
    fn the_pareto_frontier_is_all_that_nothing_beats(problem in problems(), most in 0u64..300) {
        let plans = all(&problem);
        let frontier = pareto(&problem, most);
        prop_assert!(frontier.points().is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1));
        for (i, (bytes, loss)) in frontier.points().enumerate() {
            prop_assert!(bytes <= most);
            prop_assert!(same(least(&plans, &Budget::bytes(bytes)).unwrap(), loss));
            prop_assert_eq!(frontier.selection(&problem, i).bytes, bytes);
        }
        prop_assert_eq!(frontier.is_empty(), plans.iter().all(|s| s.bytes > most));
    }

    #[test]
    fn the_hull_is_monotone_and_each_of_its_plans_the_best_of_its_size(problem in problems()) {
        let plans = all(&problem);
        let frontier = Frontier::new(&problem);
        let points = frontier.points();
        prop_assert!(points.is_sorted_by(|a, b| a.bytes < b.bytes && a.loss > b.loss));
        prop_assert!(frontier.steps().is_sorted_by(|a, b| a.gain >= b.gain));
        for (steps, point) in points.iter().enumerate() {
            let s = frontier.selection(&problem, steps);
            prop_assert_eq!(s.bytes, point.bytes);
            prop_assert!(same(s.loss, least(&plans, &Budget::bytes(point.bytes)).unwrap()));
        }
        prop_assert!(same(points[points.len() - 1].loss, least(&plans, &Budget::default()).unwrap()));
    }

    #[test]
    fn the_lagrangian_answer_is_one_step_from_the_best(problem in problems(), bytes in 0u64..300) {
        let frontier = Frontier::new(&problem);
        match (frontier.within(&problem, bytes), solve(&problem, &Budget::bytes(bytes))) {
            (Ok(quick), Ok(exact)) => {
                prop_assert!(quick.bytes <= bytes);
                prop_assert!(quick.loss >= exact.selection.loss - 1e-9);
                let below = frontier.points().iter().filter(|p| p.bytes <= bytes).count() - 1;
                let next = frontier.points().get(below + 1).map_or(f64::NEG_INFINITY, |p| p.loss);
                prop_assert!(exact.selection.loss >= next - 1e-9);
                prop_assert!(quick.loss <= frontier.points()[below].loss + 1e-9);
            }
            (quick, exact) => prop_assert!(quick.is_err() && exact.is_err()),
        }
    }

    #[test]
    fn more_budget_is_never_worse(problem in problems(), a in 0u64..300, b in 0u64..300) {
        let loss = |bytes| solve(&problem, &Budget::bytes(bytes)).ok().map(|s| s.selection.loss);
        if let (Some(small), Some(large)) = (loss(a.min(b)), loss(a.max(b))) {
            prop_assert!(large <= small);
        }
    }

    #[test]
    fn uniform_plans_do_not_beat_the_best_one(problem in problems(), bytes in 0u64..300) {
        let budget = Budget::bytes(bytes);
        if let Ok(uniform) = best_uniform(&problem, &budget) {
            prop_assert!(uniform.choices.iter().all(|c| *c == uniform.choices[0]));
            prop_assert!(uniform.bytes <= bytes);
            prop_assert!(solve(&problem, &budget).unwrap().selection.loss <= uniform.loss + 1e-9);
        }
    }

    #[test]
    fn neighbours_keep_the_budget_and_differ_in_one_or_two_units(problem in problems(), bytes in 0u64..300) {
        let budget = Budget::bytes(bytes);
        let Ok(solution) = solve(&problem, &budget) else { return Ok(()) };
        let found = neighbours(&problem, &solution.selection, &budget, 7);
        prop_assert!(found.len() <= 7);
        prop_assert!(found.is_sorted_by(|a, b| a.loss <= b.loss));
        for other in &found {
            prop_assert!(other.bytes <= bytes);
            prop_assert!(other.loss >= solution.selection.loss - 1e-9);
            let pairs = other.choices.iter().zip(&solution.selection.choices);
            prop_assert!((1..=2).contains(&pairs.filter(|(a, b)| a != b).count()));
        }
    }

    #[test]
    fn fused_units_are_the_problem_with_equal_choices(problem in problems(), bytes in 0u64..300) {
        let units = problem.units();
        let n = units.iter().map(|u| u.choices.len()).min().unwrap();
        let cut: Vec<Unit> =
            units.iter().map(|u| Unit::new(u.name.clone(), u.choices[..n].to_vec())).collect();
        let fused = Unit::fuse("all", &cut).unwrap();
        let best = Problem::new(vec![fused]).ok().and_then(|p| solve(&p, &Budget::bytes(bytes)).ok());
        let equal = |s: &&Selection| {
            s.choices.iter().all(|c| *c == s.choices[0]) && s.choices[0] < n && s.bytes <= bytes
        };
        let plans = all(&problem);
        let brute = plans.iter().filter(equal).map(|s| s.loss).min_by(f64::total_cmp);
        prop_assert_eq!(best.is_some(), brute.is_some());
        prop_assert!(best.zip(brute).is_none_or(|(a, b)| same(a.selection.loss, b)));
    }
}

/// 224 units of sizes that hardly ever add up to the same sum: more plans than can be looked at.
#[test]
fn large_problems_never_exceed_the_budget_and_come_close_to_the_hull() {
    let mut random = fewbit_testkit::Random::new(7);
    let unit = |i: usize| {
        let (weights, factor) = (1_000_003 + random.below(9_000_000) as u64, random.normal().exp());
        let choice =
            |bits: u64| Choice::new(weights * bits / 8, factor * 0.25f64.powi(bits as i32));
        Unit::new(format!("{i}"), [2, 3, 4, 5, 6, 8].map(choice))
    };
    let problem = Problem::new((0..224).map(unit).collect()).unwrap();
    let weights: u64 = problem.units().iter().map(|u| u.choices[5].bytes).sum();
    let frontier = Frontier::new(&problem);
    for budget in [weights * 5 / 16, weights / 2, weights * 3 / 4] {
        let solution = solve(&problem, &Budget::bytes(budget)).unwrap();
        assert!(solution.selection.bytes <= budget);
        assert!(solution.slack.unwrap() < budget / 100);
        let quick = frontier.within(&problem, budget).unwrap();
        assert!(quick.bytes <= budget);
        // No plan beats the hull between its corners.
        let after = frontier.points().iter().find(|p| p.bytes > budget).unwrap();
        for loss in [solution.selection.loss, quick.loss] {
            assert!(
                loss >= after.loss && loss < 1.02 * after.loss,
                "{loss} against {}",
                after.loss
            );
        }
    }
}

#[test]
fn what_cannot_be_planned_is_named() {
    let unit = |name: &str, choices: &[Choice]| Unit::new(name, choices.to_vec());
    let problem = |units| Problem::new(units).unwrap_err();
    assert_eq!(problem(vec![]), PlannerError::NoUnits);
    let error = problem(vec![unit("a", &[Choice::new(1, 0.0)]), unit("b", &[Choice::forbidden()])]);
    assert_eq!(error, PlannerError::NoChoice { unit: "b".into() });
    let error = problem(vec![unit("a", &[Choice::new(1, 0.0), Choice::new(2, f64::NAN)])]);
    assert!(matches!(error, PlannerError::Loss { choice: 1, .. }), "{error}");
    let huge = unit("a", &[Choice::new(u64::MAX / 2 + 1, 0.0)]);
    assert_eq!(problem(vec![huge.clone(), huge]), PlannerError::Overflow);

    let two = |bytes| unit("a", &[Choice::new(bytes, 1.0), Choice::new(2 * bytes, 0.0)]);
    let fused = Unit::fuse("ab", &[two(1), unit("b", &[Choice::new(1, 0.0)])]).unwrap_err();
    assert!(fused.to_string().contains("unit b has 1 choices where a has 2"), "{fused}");
    let p = Problem::new(vec![two(10), two(7)]).unwrap();
    let error = solve(&p, &Budget::bytes(16)).unwrap_err().to_string();
    assert_eq!(error, "a budget of 16 bytes is impossible: the smallest plan takes 17");
    assert!(matches!(p.selection(vec![0]), Err(PlannerError::SelectionLength { .. })));
    assert!(matches!(p.selection(vec![0, 2]), Err(PlannerError::Forbidden { choice: 2, .. })));
}
