//! Figures are well-formed SVG that holds what it was given, and nonsense is refused.
#![cfg(feature = "figures")]

use fewbit_eval::EvalError;
use fewbit_eval::figure::{BarChart, BarSeries, LayerError, LineChart, LineSeries, Scale};

/// Checks that tags are closed in order and attributes quoted; returns the text between tags.
fn texts(svg: &str) -> Result<Vec<String>, String> {
    let (mut open, mut texts) = (Vec::new(), Vec::new());
    let mut rest = svg.trim();
    while let Some(start) = rest.find('<') {
        let text = rest[..start].trim();
        if !text.is_empty() {
            if open.last() != Some(&"text") {
                return Err(format!("`{text}` outside a text element"));
            }
            texts.push(text.to_string());
        }
        let end = start + rest[start..].find('>').ok_or("a tag without end")?;
        let tag = &rest[start + 1..end];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes another element"));
            }
        } else {
            let body = tag.strip_suffix('/').unwrap_or(tag);
            let name = body.split_whitespace().next().ok_or("a tag without name")?;
            if body.matches('"').count() != 2 * body.matches("=\"").count() {
                return Err(format!("<{name}> has a broken attribute"));
            }
            if body.contains("NaN") || body.contains("inf") {
                return Err(format!("<{name}> is nowhere: {body}"));
            }
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
    }
    if open.is_empty() && rest.is_empty() { Ok(texts) } else { Err(format!("left open: {open:?}")) }
}

#[test]
fn the_checker_finds_what_is_broken() {
    assert_eq!(texts("<svg><text x=\"1\">a</text><rect/></svg>").unwrap(), ["a"]);
    for broken in [
        "<svg>",
        "<svg></g>",
        "<svg x=\"1></svg>",
        "<svg>a</svg>",
        "<svg><rect x=\"NaN\"/></svg>",
        "<svg",
    ] {
        assert!(texts(broken).is_err(), "{broken}");
    }
}

const KINDS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn by_layer(n_layers: usize) -> BarChart {
    let errors = (0..n_layers).flat_map(|layer| {
        KINDS.iter().enumerate().map(move |(i, &matrix)| {
            let before = 0.01 * (1.0 + i as f64) * (1.0 + 0.1 * layer as f64);
            LayerError { matrix, layer, before: Some(before), after: Some(0.6 * before) }
        })
    });
    BarChart::error_by_layer("4 bit & groups <128>", "relative error", ("GPTQ", "RTN"), errors)
}

#[test]
fn errors_by_layer_show_every_matrix() {
    for n_layers in [1, 4, 16, 30, 126] {
        let svg = by_layer(n_layers).to_svg().unwrap();
        let texts = texts(&svg).unwrap();
        let shown = |text: &str| texts.iter().any(|t| t == text);
        for label in
            ["4 bit &amp; groups &lt;128&gt;", "relative error", "layer", "GPTQ", "RTN", "0"]
        {
            assert!(shown(label), "{n_layers} layers: `{label}` is missing in {texts:?}");
        }
        assert!(KINDS.iter().all(|kind| shown(kind)), "{texts:?}");
        // Per matrix a solid and a pale bar; beside them background, legend and bands.
        let n_rects = svg.matches("<rect").count();
        assert_eq!(n_rects, 2 * 7 * n_layers + 1 + 9 + n_layers / 2, "{n_layers} layers");
    }
}

#[test]
fn records_in_any_order_and_with_gaps() {
    let error = |matrix, layer, before, after| LayerError { matrix, layer, before, after };
    let chart = BarChart::error_by_layer(
        "t",
        "y",
        ("a", "b"),
        [
            error("up", 7, None, Some(0.7)),
            error("q", 2, None, Some(0.2)),
            error("up", 2, Some(0.5), None),
        ],
    );
    assert_eq!(chart.categories, ["2", "7"]);
    assert_eq!(chart.series[0].name, "up");
    assert_eq!(chart.series[0].values, [None, Some(0.7)]);
    assert_eq!(chart.series[0].before, [Some(0.5), None]);
    assert_eq!(chart.series[1].values, [Some(0.2), None]);
    assert!(texts(&chart.to_svg().unwrap()).is_ok());
    let alone = BarChart::error_by_layer("t", "y", ("a", "b"), [error("q", 0, None, Some(1.0))]);
    assert_eq!(alone.after_before, None);
}

fn methods(scale: Scale, values: [Option<f64>; 3]) -> BarChart {
    BarChart {
        title: "methods".into(),
        y_label: "perplexity".into(),
        categories: ["plain rounding", "GPTQ", "float"].map(String::from).to_vec(),
        series: vec![BarSeries { name: "llama".into(), values: values.to_vec(), before: vec![] }],
        scale,
        value_labels: true,
        ..BarChart::default()
    }
}

#[test]
fn values_are_written_above_bars() {
    let chart = methods(Scale::Auto, [Some(31.152), Some(29.83), None]);
    let shown = texts(&chart.to_svg().unwrap()).unwrap();
    assert!(
        shown.contains(&"31.2".to_string()) && shown.contains(&"29.8".to_string()),
        "{shown:?}"
    );
    // A single series needs no legend.
    assert!(!shown.contains(&"llama".to_string()), "{shown:?}");
    // Bars too narrow for their values go without.
    let mut narrow = by_layer(60);
    narrow.value_labels = true;
    let plain = by_layer(60).to_svg().unwrap();
    assert_eq!(narrow.to_svg().unwrap(), plain);
}

#[test]
fn zeros_negatives_and_equal_values_can_be_drawn() {
    for values in [[0.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [5.0, 5.0, 5.0], [1e-300, 0.0, 1e100]] {
        let chart = methods(Scale::Auto, values.map(Some));
        texts(&chart.to_svg().unwrap()).unwrap();
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let message = |chart: &BarChart| chart.to_svg().unwrap_err().to_string();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let text = message(&methods(Scale::Linear, [Some(1.0), Some(bad), None]));
        assert!(text.contains("`llama`") && text.contains("cannot be drawn"), "{text}");
    }
    let text = message(&methods(Scale::Log, [Some(1.0), Some(0.0), None]));
    assert!(text.contains("the value 0") && text.contains("use a linear one"), "{text}");
    let error = methods(Scale::Auto, [None; 3]).to_svg().unwrap_err();
    assert!(matches!(error, EvalError::EmptyFigure { what: "no values", .. }), "{error}");
    let error = BarChart::default().to_svg().unwrap_err();
    assert!(matches!(error, EvalError::EmptyFigure { what: "no categories", .. }), "{error}");
    let mut ragged = methods(Scale::Auto, [Some(1.0); 3]);
    ragged.series[0].values.pop();
    let text = message(&ragged);
    assert!(text.contains("2 values and 0 values before for 3 categories"), "{text}");
}

#[test]
fn lines_show_their_names_and_axes() {
    let line = |name: &str, y: [f64; 3]| LineSeries {
        name: name.into(),
        points: [2.0, 3.0, 4.0].into_iter().zip(y).collect(),
    };
    let chart = LineChart {
        title: "size and quality".into(),
        x_label: "bits per weight".into(),
        y_label: "KL divergence (nats)".into(),
        series: vec![line("RTN", [1.99, 0.23, 0.045]), line("GPTQ", [0.72, 0.12, 0.028])],
        ..LineChart::default()
    };
    let svg = chart.to_svg().unwrap();
    let shown = texts(&svg).unwrap();
    for label in
        ["size and quality", "bits per weight", "KL divergence (nats)", "RTN", "GPTQ", "0.1"]
    {
        assert!(shown.contains(&label.to_string()), "`{label}` is missing in {shown:?}");
    }
    assert_eq!(svg.matches("<circle").count(), 6 + 2);
    assert_eq!(svg, chart.to_svg().unwrap(), "the same data give the same bytes");
    let error = LineChart::default().to_svg().unwrap_err();
    assert!(matches!(error, EvalError::EmptyFigure { what: "no points", .. }), "{error}");
    let mut broken = chart;
    broken.series[1].points[0].0 = f64::NAN;
    assert!(matches!(broken.to_svg().unwrap_err(), EvalError::FigureData { .. }));
}
