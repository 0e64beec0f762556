//! `map`: a picture of a number space, in braille or as SVG.

mod braille;
mod canvas;
mod svg;

use super::context::Context;
use super::outcome::Outcome;
use super::values;
use crate::model::{Domain, Refusal};
use crate::proto::GetMap;
use canvas::Canvas;
use std::io::IsTerminal;
use std::path::Path;

/// Draws who has which ids of a domain; into a file where one is named.
pub(super) fn map(context: &Context, domain: Option<&str>, file: Option<&Path>) -> Outcome {
    let domain = domain.map_or(Ok(Domain::Global), |text| values::parse("domain", text))?;
    let space = context.ask(&GetMap { domain })?;
    if let Some(file) = file {
        std::fs::write(file, svg::draw(&Canvas::of(&space)))
            .map_err(|error| Refusal::invalid("svg", file.display(), format!("a file to write: {error}")))?;
    }
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    context.print(&space, |space| match file {
        Some(_) => String::new(),
        None => braille::draw(&Canvas::of(space), colours),
    })
}
