//! `kup check`.

use super::args::Check;
use super::{Context, Exit, model, output};
use crate::bus::Error;
use crate::bus::proxy::Options;

pub(super) async fn check(context: &Context, args: Check) -> Result<Exit, Error> {
    let mut options = Options::new();
    if let Some(target) = &args.target {
        options.insert("target", target.as_str().into());
    }
    let units: Vec<&str> = args.units.iter().map(String::as_str).collect();
    context.out.passing("checking …");
    let answer = context.manager.check(&units, &options).await;
    context.out.passing("");
    let (target, units, findings) = answer?;
    let check = model::Check { target: Some(target).filter(|t| !t.is_empty()), units, findings };
    context.out.show(&check, output::check);
    Ok(if check.is_blocked() { Exit::Blocked } else { Exit::Ok })
}
