//! Chat templates against what transformers makes of them (`tools/goldens/chat.py`).

use fewbit_model::{ChatTemplate, Message, ModelError, Speaker};
use serde_json::Value;

fn message(said: &Value) -> Message {
    let speaker = match said[0].as_str().unwrap() {
        "system" => Speaker::System,
        "user" => Speaker::User,
        _ => Speaker::Assistant,
    };
    Message::new(speaker, said[1].as_str().unwrap())
}

/// Another file can be named by `CHAT_GOLDENS`: templates of published models, which are not ours to keep here.
#[test]
fn templates_render_as_in_transformers() {
    let text = match std::env::var_os("CHAT_GOLDENS") {
        Some(file) => std::fs::read_to_string(file).unwrap(),
        None => include_str!("golden/chat.json").to_owned(),
    };
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut wrong = vec![];
    for case in &cases {
        let part = |key: &str| case[key].as_str().unwrap();
        let messages: Vec<Message> =
            case["messages"].as_array().unwrap().iter().map(message).collect();
        let template = ChatTemplate::parse(part("template"), part("bos"), part("eos"));
        let got = template.and_then(|template| template.render(&messages));
        match (case["text"].as_str(), got) {
            (Some(expected), Ok(got)) if got == expected => {}
            (None, Err(_)) => {}
            (expected, got) => {
                wrong.push(format!("{}: {got:?} instead of {expected:?}", part("name")))
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn what_is_wrong_is_said() {
    let error = ChatTemplate::parse("{% for x in %}", "", "").unwrap_err();
    assert!(matches!(error, ModelError::ChatTemplate { .. }), "{error}");
    let refusing = ChatTemplate::parse("\n\n{{ raise_exception('no system') }}", "", "").unwrap();
    let error = refusing.render(&[Message::new(Speaker::System, "x")]).unwrap_err().to_string();
    assert!(error.contains("no system") && error.contains("line 3"), "{error}");
}
