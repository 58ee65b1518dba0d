//! The shared evaluation texts are split as the reference tools split them.

use fewbit_eval::{split_documents, wikitext};
use fewbit_testkit::shared_or_skip;

#[test]
fn tiny_stories_are_split_as_by_the_reference_script() {
    let Some(shared) = shared_or_skip("tiny_stories_are_split_as_by_the_reference_script") else {
        return;
    };
    let text = std::fs::read_to_string(shared.join("text/tinystories/validation.txt")).unwrap();
    let stories: Vec<&str> = split_documents(&text, "<|endoftext|>").collect();
    // tools/peers/evaluate.py counts as many.
    assert_eq!(stories.len(), 495);
    assert!(stories.iter().all(|s| !s.is_empty() && s.trim() == *s && !s.contains("<|")));
}

#[test]
fn wikitext_has_the_rows_of_the_data_set() {
    let Some(shared) = shared_or_skip("wikitext_has_the_rows_of_the_data_set") else { return };
    for (file, n_rows) in [("test.txt", 4358), ("valid.txt", 3760)] {
        let raw = std::fs::read_to_string(shared.join("text/wikitext-2").join(file)).unwrap();
        let rows = raw.lines().count();
        assert_eq!(rows, n_rows, "{file}");
        let blank = raw.lines().filter(|line| line.trim().is_empty()).count();
        let blank_bytes: usize =
            raw.split_inclusive('\n').filter(|line| line.trim().is_empty()).map(str::len).sum();
        // Every row keeps its bytes but the blank ones, and two newlines stand between neighbours.
        let joined = wikitext(&raw);
        assert_eq!(joined.len(), raw.len() - blank_bytes + 2 * (n_rows - 1), "{file}");
        assert!(blank > 0 && joined.contains("\n\n = "), "{file}");
    }
}
