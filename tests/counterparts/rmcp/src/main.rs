//! The Rust SDK `rmcp` as a real MCP peer: a server with the tools, and a client with the scenarios, that
//! `../README.md` describes.
//!
//! ```text
//! counterpart-rmcp server --port N [--mode both|stateless]
//! counterpart-rmcp client URL SCENARIO[,..]|all [--era auto|legacy|modern|VERSION] [--seconds N]
//! ```

#![allow(
    deprecated,
    reason = "sampling, roots, logging and legacy subscriptions are what a legacy peer is tried with"
)]

mod client;
mod server;

use std::{collections::HashMap, env, error::Error, process::ExitCode};

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A typed value of the SDK from its wire form, which is shorter to read than its builders.
pub(crate) fn typed<T: DeserializeOwned>(wire: Value) -> T {
    serde_json::from_value(wire).expect("the shape that the SDK expects")
}

/// What was typed after the command: values in order, and `--name value`.
struct Arguments {
    values: Vec<String>,
    options: HashMap<String, String>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Self {
        let (mut values, mut options) = (Vec::new(), HashMap::new());
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    options.insert(name.to_owned(), words.next().unwrap_or_default());
                }
                None => values.push(word),
            }
        }
        Self { values, options }
    }

    fn option<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.options.get(name).map_or(default, String::as_str)
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let mut words = env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments = Arguments::parse(words);
    match (command.as_str(), arguments.values.as_slice()) {
        ("server", []) => {
            let stateless = arguments.option("mode", "both") == "stateless";
            server::run(arguments.option("port", "0").parse()?, stateless).await?;
            Ok(ExitCode::SUCCESS)
        }
        ("client", [url, scenarios]) => {
            let seconds = arguments.option("seconds", "15").parse()?;
            client::run(url, scenarios, arguments.option("era", "auto"), seconds).await
        }
        _ => {
            eprintln!("usage: counterpart-rmcp server --port N | client URL SCENARIO[,..]|all");
            Ok(ExitCode::from(64))
        }
    }
}
