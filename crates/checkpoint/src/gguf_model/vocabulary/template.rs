//! Whether texts get a token in front and at the end: `post_processor` of `tokenizer.json`.

use serde_json::{Map, Value, json};

use crate::{CheckpointError, config::Keys};

/// Texts of the tokens that every text gets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Frame<'a> {
    pub(super) first: Option<&'a str>,
    pub(super) last: Option<&'a str>,
}

/// What a post-processor adds; `None` if it says nothing of it.
pub(super) fn read<'a>(object: &Keys<'a>) -> Result<Option<Frame<'a>>, CheckpointError> {
    match object.need("type", object.text("type")?)? {
        "ByteLevel" => Ok(Some(Frame::default())),
        "Sequence" => {
            let mut frame: Option<Frame<'a>> = None;
            for (i, processor) in object.list("processors")?.iter().enumerate() {
                let Some(processor) = processor.as_object() else { continue };
                let at = format!("{}processors.{i}.", object.at);
                let processor = Keys { object: processor, file: object.file, at };
                if let Some(found) = read(&processor)? {
                    let frame = frame.get_or_insert_default();
                    frame.first = frame.first.or(found.first);
                    frame.last = frame.last.or(found.last);
                }
            }
            Ok(frame)
        }
        "TemplateProcessing" => {
            let single = object.list("single")?;
            let text = single.iter().position(|part| part.get("Sequence").is_some());
            let tokens: Vec<Option<&str>> = single
                .iter()
                .map(|part| part.get("SpecialToken").and_then(|token| token.get("id")?.as_str()))
                .collect();
            let frame = match (text, &tokens[..]) {
                (Some(0), [None]) => Frame::default(),
                (Some(1), &[first @ Some(_), None]) => Frame { first, last: None },
                (Some(0), &[None, last @ Some(_)]) => Frame { first: None, last },
                (Some(1), &[first @ Some(_), None, last @ Some(_)]) => Frame { first, last },
                _ => {
                    let supported = "one token in front of the text and one after it";
                    return Err(object.unsupported("single", "another template", supported));
                }
            };
            Ok(Some(frame))
        }
        other => {
            Err(object.unsupported("type", other, "TemplateProcessing, ByteLevel and Sequence"))
        }
    }
}

/// A post-processor that adds these tokens, each with its id.
pub(super) fn json(first: Option<(&str, u32)>, last: Option<(&str, u32)>) -> Value {
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let sequence = |name: &str, type_id: u32| {
        let token =
            |(text, _): (&str, u32)| json!({ "SpecialToken": { "id": text, "type_id": type_id } });
        let mut parts: Vec<Value> = first.map(token).into_iter().collect();
        parts.push(json!({ "Sequence": { "id": name, "type_id": type_id } }));
        parts.extend(last.map(token));
        parts
    };
    let mut special = Map::new();
    for (text, id) in [first, last].into_iter().flatten() {
        let token = json!({ "id": text, "ids": [id], "tokens": [text] });
        special.insert(text.to_owned(), token);
    }
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": special,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_value(value: &Value) -> Result<Option<Frame<'_>>, String> {
        let keys = Keys::new(value.as_object().unwrap(), "tokenizer.json".as_ref());
        read(&keys).map_err(|error| error.to_string())
    }

    #[test]
    fn every_frame_comes_back() {
        let (bos, eos) = (Some(("<s>", 1)), Some(("</s>", 2)));
        for (first, last) in [(bos, None), (None, eos), (bos, eos)] {
            let value = json(first, last);
            let frame = Frame { first: first.map(|t| t.0), last: last.map(|t| t.0) };
            assert_eq!(read_value(&value), Ok(Some(frame)));
        }
        assert_eq!(json(None, None), Value::Null);
    }

    #[test]
    fn sequences_and_other_templates() {
        let sequence = json!({ "type": "Sequence", "processors": [
            { "type": "ByteLevel" }, json(Some(("<s>", 1)), None) ] });
        let frame = Frame { first: Some("<s>"), last: None };
        assert_eq!(read_value(&sequence), Ok(Some(frame)));
        let part = json!({ "SpecialToken": { "id": "x" } });
        let twice = json!({ "type": "TemplateProcessing",
            "single": [part, part, { "Sequence": { "id": "A" } }] });
        assert!(read_value(&twice).unwrap_err().contains("one token in front"));
    }
}
