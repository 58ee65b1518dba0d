//! Task files: what is read from good ones, and what is said about bad ones.

use std::{error::Error, fs, path::Path};

use fewbit_eval::{
    EvalError,
    tasks::{MmluProtocol, mmlu_items, read_hellaswag, read_mmlu},
};

mod common;
use common::Bytes;

fn causes(error: &EvalError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

const GOOD: &str = r#"{"activity_label": "Baking", "ctx_a": "A man bakes. [title] A cake", "ctx_b": "he Then", "endings": ["a", "b [step] c", "  d", "é"], "label": "3"}"#;

fn hellaswag(bytes: &[u8]) -> Result<Vec<fewbit_eval::tasks::ChoiceItem>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("val.jsonl");
    fs::write(&file, bytes).unwrap();
    read_hellaswag(&file).map_err(|error| causes(&error))
}

#[test]
fn hellaswag_items_are_cleaned() {
    let text = format!("\u{feff}{GOOD}\r\n\n{GOOD}");
    let items = hellaswag(text.as_bytes()).unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].context, "Baking: A man bakes.. A cake He then");
    assert_eq!(items[0].choices, ["a", "b c", "d", "é"]);
    assert_eq!(items[1].gold, 3);
}

#[test]
fn bad_hellaswag_lines_are_named() {
    let cases: &[(&str, &str, &str)] = &[
        (r#""ctx_b": "he Then", "#, "", "there is no field `ctx_b`"),
        (
            r#""ctx_a": "A man bakes. [title] A cake""#,
            r#""ctx_a": 7"#,
            "field `ctx_a` is 7, where a text",
        ),
        (r#""a", "#, "", "`endings` has 3 choices, where 4"),
        (r#""a", "#, "5, ", "field `endings` is [5,"),
        (r#""a", "#, r#""[step]", "#, "choice 0 of `endings` is empty"),
        (r#""3""#, "4", "`label` is 4, and only 0 to 3"),
        (r#""3""#, r#""""#, "labels are hidden"),
        (r#""3""#, "3.5", "`label` is 3.5"),
        ("}", "", "not a JSON object: EOF"),
        (GOOD, "[1, 2]", "not a JSON object"),
    ];
    for (from, to, expected) in cases {
        let bad = GOOD.replacen(from, to, 1);
        let error = hellaswag(format!("{GOOD}\n\n{bad}\n").as_bytes()).unwrap_err();
        assert!(error.contains("val.jsonl, line 3: "), "{error}");
        assert!(error.contains(expected), "{error}, but not {expected}");
    }
    let mut latin1 = GOOD.replace('é', "e").into_bytes();
    let at = latin1.windows(4).position(|w| w == b"\"e\"]").unwrap() + 1;
    latin1[at] = 0xe9;
    let error = hellaswag(&latin1).unwrap_err();
    assert!(error.contains(&format!("line 1: byte {} is not UTF-8", at + 1)), "{error}");
    assert!(hellaswag(b"\xff\xfe{\0").unwrap_err().contains("line 1: byte 1 is not UTF-8"));
    assert!(hellaswag(b"\n \n").unwrap_err().contains("holds no item of HellaSwag"));
    let error = causes(&read_hellaswag(Path::new("no/such/file")).unwrap_err());
    assert!(error.starts_with("cannot read no/such/file: "), "{error}");
}

const DEV: &str = "What is 1+1?,1,2,3,4,B\n\"Say \"\"hi\"\",\nplease\",a,b,c,d,D\n";

fn mmlu(dev: &[u8], test: &[u8]) -> Result<Vec<fewbit_eval::tasks::MmluSubject>, String> {
    let folder = tempfile::tempdir().unwrap();
    for (split, bytes) in [("dev", dev), ("test", test)] {
        fs::create_dir(folder.path().join(split)).unwrap();
        let file = format!("{split}/world_religions_{split}.csv");
        fs::write(folder.path().join(file), bytes).unwrap();
    }
    read_mmlu(folder.path()).map_err(|error| causes(&error))
}

#[test]
fn prompts_of_both_protocols() {
    let subjects = mmlu(DEV.as_bytes(), b"\" Why? \",w,x,y,z,A\n").unwrap();
    assert_eq!(subjects[0].name, "world_religions");
    assert_eq!(subjects[0].dev[1].question, "Say \"hi\",\nplease");
    let prompt = |protocol, shots, max_len| {
        let items = mmlu_items(&subjects[0], protocol, shots, &Bytes, max_len).unwrap();
        assert_eq!((items.len(), items[0].gold), (1, 0));
        assert_eq!(items[0].choices, ["A", "B", "C", "D"]);
        items[0].context.clone()
    };
    let harness = "\
The following are multiple choice questions (with answers) about world religions.

What is 1+1?
A. 1
B. 2
C. 3
D. 4
Answer: B

Why?
A. w
B. x
C. y
D. z
Answer:";
    assert_eq!(prompt(MmluProtocol::Harness, 1, 10), harness);
    let original = harness.replace("about world", "about  world").replace("Why?", " Why? ");
    assert_eq!(prompt(MmluProtocol::Original, 1, 1000), original);
    // " A" follows the prompt, and all but the last of its bytes are read.
    assert_eq!(prompt(MmluProtocol::Original, 1, original.len() + 1), original);
    let shorter = prompt(MmluProtocol::Original, 1, original.len());
    assert!(!shorter.contains("1+1") && shorter.contains(" Why? "), "{shorter}");
    let error = mmlu_items(&subjects[0], MmluProtocol::Harness, 3, &Bytes, 10).unwrap_err();
    let error = causes(&error);
    assert!(error.contains("world_religions_dev.csv, line 2: 2 solved examples"), "{error}");
}

#[test]
fn bad_mmlu_records_are_named() {
    let cases: &[(&str, &str)] = &[
        ("What?,1,2,3,4,E\n", "`answer` is \"E\", and only A to D"),
        ("What?,1,2,3,4\n", "5 columns, where 6"),
        ("What, then?,1,2,3,4,A\n", "7 columns, where 6"),
        ("\"What?,1,2,3,4,A\nWhy?,1,2,3,4,A\n", "is never closed"),
        ("What?,1,,3,4,A\n", "choice 1 of `choices` is empty"),
        (" ,1,2,3,4,A\n", "field `question` is empty"),
    ];
    for (record, expected) in cases {
        // The second record of DEV has two lines.
        let error = mmlu(DEV.as_bytes(), format!("{DEV}\n{record}").as_bytes()).unwrap_err();
        assert!(error.contains("world_religions_test.csv, line 5: "), "{error}");
        assert!(error.contains(expected), "{error}, but not {expected}");
    }
    let error = mmlu(b"caf\xe9,1,2,3,4,A\n", b"").unwrap_err();
    assert!(error.contains("_dev.csv, line 1: byte 4 is not UTF-8"), "{error}");
    assert!(mmlu(b"", b"").unwrap_err().contains("holds no item of MMLU"));
}

#[test]
fn mmlu_as_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let item = |subject: &str, answer: &str| {
        format!(
            r#"{{"question": "q", "subject": "{subject}", "choices": ["1", "2", "3", "4"], "answer": {answer}}}"#
        )
    };
    write("test.jsonl", &format!("{}\n{}\n{}\n", item("b", "3"), item("a", "0"), item("b", "1")));
    write("dev.jsonl", &format!("{}\n{}\n", item("b", "2"), item("c", "2")));
    let subjects = read_mmlu(folder.path()).unwrap();
    let counts: Vec<_> = subjects.iter().map(|s| (&*s.name, s.dev.len(), s.test.len())).collect();
    assert_eq!(counts, [("a", 0, 1), ("b", 1, 2)]);
    for (bad, expected) in [("4", "`answer` is 4"), ("\"A\"", "only 0 to 3")] {
        write("dev.jsonl", &item("a", bad));
        let error = causes(&read_mmlu(folder.path()).unwrap_err());
        assert!(error.contains("dev.jsonl, line 1: ") && error.contains(expected), "{error}");
    }
}
