//! `kup history`.

use super::{Context, Exit, output};
use crate::bus::Error;
use crate::update::HistoryLine;

pub(super) async fn history(context: &Context) -> Result<Exit, Error> {
    context.out.show(&lines(context).await?, |lines| output::history(lines));
    Ok(Exit::Ok)
}

/// The updates that ended, oldest first.
pub(super) async fn lines(context: &Context) -> Result<Vec<HistoryLine>, Error> {
    let lines = context.manager.history().await?;
    let lines: Result<_, _> = lines.iter().map(|l| serde_json::from_str(l)).collect();
    lines.map_err(|e| Error::Failed(format!("kupd's history is not understood: {e}")))
}
