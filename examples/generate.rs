//! Writes text with a model, float or quantized, and says how fast.
//!
//! ```text
//! cargo run --release --example generate -- --model OUT --prompt "The future of artificial intelligence is" -n 64
//! cargo run --release --example generate -- --model OUT --chat --prompt "Why is the sky blue?" --system "Answer in one sentence."
//! ```

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::units::bytes,
    model::{
        CacheType, ChatTemplate, Choice, Message, Model, Sampling, Speaker, Stop, StopReason,
        Tokenizer, end_tokens, generate,
    },
};

mod support;

#[derive(Parser)]
#[command(about = "Write text with a model, float or quantized")]
struct Args {
    /// Model folder or GGUF file. Without it: the embedded demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// What the text begins with.
    #[arg(long, default_value = "The future of artificial intelligence is")]
    prompt: String,
    /// Take the prompt as a message to a model that was taught to answer, in the form of its chat template.
    #[arg(long)]
    chat: bool,
    /// What sets the scene of the conversation.
    #[arg(long, requires = "chat")]
    system: Option<String>,
    /// Tokens to write.
    #[arg(short, default_value_t = 64)]
    n: usize,
    /// 0 always takes the most likely token; above 0, chance decides.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Only so many of the most likely tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Only the most likely tokens that together reach this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Above 1, what the text already holds gets less likely.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Same seed, same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// In what the inputs of few-bit layers are multiplied.
    #[arg(long, value_enum, default_value_t = support::Inputs::Int8)]
    activations: support::Inputs,
    /// How keys and values are cached: f32, f16, q8 or q4.
    #[arg(long, value_parser = support::parse_cache, default_value = "f16")]
    cache: CacheType,
    /// Threads; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let folder = args.model.clone().map_or_else(support::demo_model, Ok)?;
    let checkpoint = Checkpoint::open_with(&folder, Access::Positioned)?;
    let tokenizer = Tokenizer::load(&checkpoint).context("text needs the model's tokenizer")?;
    let model = Model::load_with(&checkpoint, args.activations.into())?;
    let prompt = prompt(args, &checkpoint, &tokenizer)?;
    let stop = Stop { max_tokens: args.n, end_tokens: end_tokens(&checkpoint, model.config())? };
    let choice = match args.temperature {
        0.0 => Choice::Greedy,
        temperature => {
            Choice::Sample { temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed }
        }
    };
    let sampling = Sampling {
        choice,
        repetition_penalty: args.repetition_penalty,
        vocab_size: tokenizer.vocab_size(),
    };

    let mut session = model.session_with(args.cache);
    let started = Instant::now();
    let mut first = None;
    // Tokens may end inside a character or a word piece, so the whole text is decoded each time and its new part printed.
    // Of a conversation, the answer alone.
    let mut printed = if args.chat { tokenizer.decode(&prompt)?.len() } else { 0 };
    let mut show = |tokens: &[u32]| {
        if let Ok(text) = tokenizer.decode(tokens)
            && let Some(new) = text.get(printed..)
            && !new.ends_with('\u{fffd}')
        {
            print!("{new}");
            let _ = stdout().flush();
            printed = text.len();
        }
    };
    show(&prompt);
    let mut all = prompt.clone();
    let (tokens, reason) = generate(&mut session, &prompt, &sampling, &stop, |token| {
        first.get_or_insert_with(|| started.elapsed());
        all.push(token);
        show(&all);
        true
    })?;
    println!("\n");
    if reason == StopReason::EndOfPositions {
        eprintln!("stopped: the model has learned no further positions");
    }

    let total = started.elapsed().as_secs_f64();
    let first = first.map_or(total, |f| f.as_secs_f64());
    let decode = (tokens.len().saturating_sub(1)) as f64 / (total - first).max(1e-9);
    eprintln!(
        "{} tokens of prompt in {:.1} ms, then {decode:.0} tokens/s; weights {}, cache {}; {} threads",
        prompt.len(),
        first * 1e3,
        bytes(model.bytes() as u64),
        bytes(session.cache_bytes() as u64),
        rayon::current_num_threads(),
    );
    Ok(())
}

/// The text to continue, or the conversation to answer.
fn prompt(args: &Args, checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    if !args.chat {
        return Ok(tokenizer.encode(&args.prompt, true)?);
    }
    let template = ChatTemplate::load(checkpoint)?
        .context("this model has no chat template: leave out --chat")?;
    let system = args.system.iter().map(|text| Message::new(Speaker::System, text));
    let messages: Vec<Message> =
        system.chain([Message::new(Speaker::User, &args.prompt)]).collect();
    // The template has the special tokens in it.
    Ok(tokenizer.encode(&template.render(&messages)?, false)?)
}
