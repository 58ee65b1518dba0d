//! Conversations as the text that a model was taught to answer: the Jinja template of its files.

mod date;

use fewbit_checkpoint::{Checkpoint, gguf_model::TokenizerFiles};
use minijinja::{Environment, Error, ErrorKind, context, syntax::SyntaxConfig};

use crate::ModelError;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Sets the scene. Some models have no place for it and refuse.
    System,
    /// Asks.
    User,
    /// Answers: the model.
    Assistant,
}

impl Speaker {
    /// Its name in templates.
    pub const fn role(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub speaker: Speaker,
    /// What is said.
    pub content: String,
}

impl Message {
    /// `content` said by `speaker`.
    pub fn new(speaker: Speaker, content: impl Into<String>) -> Self {
        Self { speaker, content: content.into() }
    }
}

/// The chat template of a model.
///
/// ```
/// use fewbit_model::{ChatTemplate, Message, Speaker};
///
/// let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'].strip() }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
/// let template = ChatTemplate::parse(source, "<s>", "</s>")?;
/// let text = template.render(&[Message::new(Speaker::User, " Hello ")])?;
/// assert_eq!(text, "<s>[user] Hello\n[assistant]");
/// # Ok::<(), fewbit_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// The only template of the environment.
const NAME: &str = "chat";

impl ChatTemplate {
    /// The template of a checkpoint: `chat_template.jinja`, or that of `tokenizer_config.json` (of several, the default one), or that of a GGUF file's
    /// metadata. `None` if there is none.
    ///
    /// # Errors
    /// If a file cannot be read, or the template is not valid.
    pub fn load(checkpoint: &Checkpoint) -> Result<Option<Self>, ModelError> {
        let Some(files) = checkpoint.tokenizer_files()? else { return Ok(None) };
        let text = |key| files.token(key).unwrap_or_default().to_owned();
        let (bos_token, eos_token) = (text("bos_token"), text("eos_token"));
        let template = TokenizerFiles::template(&files);
        template.map(|source| Self::parse(source, &bos_token, &eos_token)).transpose()
    }

    /// A template, and the texts of the tokens that it may name.
    ///
    /// # Errors
    /// If the template is not valid.
    pub fn parse(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        // As transformers sets up Jinja.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failed)?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_function("strftime_now", |format: &str| date::now(format));
        environment.add_template_owned(NAME, without_marks(source)).map_err(failed)?;
        Ok(Self { environment, bos_token: bos_token.into(), eos_token: eos_token.into() })
    }

    /// The text of a conversation, up to where the model is to answer. It has its special tokens in it: encode it without adding any.
    ///
    /// # Errors
    /// If the template refuses the conversation, or uses what is not there, such as tools.
    pub fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
        let said = |m: &Message| context! { role => m.speaker.role(), content => &*m.content };
        let messages: Vec<minijinja::Value> = messages.iter().map(said).collect();
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let text = template.render(context! {
            messages,
            bos_token => &*self.bos_token,
            eos_token => &*self.eos_token,
            add_generation_prompt => true,
        });
        text.map_err(failed)
    }
}

/// A template in which the statements that mark what a model generates, an extension of transformers, are conditions that hold.
fn without_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, statement) = rest.split_at(start + 2);
        text += before;
        let inner = statement.trim_start_matches(['-', '+']).trim_start();
        text += &statement[..statement.len() - inner.len()];
        let word = inner.len() - inner.trim_start_matches(|c: char| c.is_alphanumeric()).len();
        text += match &inner[..word] {
            "generation" => "if true",
            "endgeneration" => "endif",
            other => other,
        };
        rest = &inner[word..];
    }
    text + rest
}

fn failed(error: Error) -> ModelError {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    ModelError::ChatTemplate { reason: format!("{reason}{line}") }
}
