//! `map`: a picture of a number space, in braille where there are colours, in letters where there are none, or as SVG.

mod braille;
mod canvas;
mod letters;
mod svg;

use super::context::Context;
use super::outcome::Outcome;
use super::{table, values};
use crate::model::{Domain, Refusal};
use crate::proto::GetMap;
use canvas::Canvas;
use std::path::Path;

/// Draws who has which ids of a domain; into a file where one is named.
pub(super) fn map(context: &Context, domain: Option<&str>, file: Option<&Path>) -> Outcome {
    let domain = domain.map_or(Ok(Domain::Global), |text| values::parse("domain", text))?;
    let space = context.ask(&GetMap { domain })?;
    if let Some(file) = file {
        std::fs::write(file, svg::draw(&Canvas::of(&space)))
            .map_err(|error| Refusal::invalid("svg", file.display(), format!("a file to write: {error}")))?;
    }
    let colours = table::has_colours(&std::io::stdout());
    context.print(&space, |space| match file {
        Some(_) => String::new(),
        None if colours => braille::draw(&Canvas::of(space)),
        None => letters::draw(space),
    })
}
