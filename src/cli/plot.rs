//! `kup plot`: an update as a picture.

mod axis;
mod svg;

use super::args::Plot;
use super::model::Update;
use super::{Context, Exit, history, status};
use crate::bus::{Error, NO_OBJECT};
use crate::update::UpdateId;

pub(super) async fn plot(context: &Context, args: Plot) -> Result<Exit, Error> {
    let update = find(context, args.id.as_ref()).await?;
    if update.phases.is_empty() {
        return Err(Error::Failed(format!("update {} has no phases yet that could be shown", update.id)));
    }
    context.out.show(&update, svg::render);
    Ok(Exit::Ok)
}

/// The update with this id; without one, the one that is under way or was the last one. Its object tells more of it than
/// the history, and tells it sooner.
async fn find(context: &Context, id: Option<&UpdateId>) -> Result<Update, Error> {
    let current = context.manager.current_update().await?;
    if current.as_str() != NO_OBJECT {
        let update = status::read(&context.conn, &current).await?;
        if id.is_none_or(|id| id.as_str() == update.id) {
            return Ok(update);
        }
    }
    let mut lines = history::lines(context).await?;
    let found = match id {
        Some(id) => lines.into_iter().find(|line| line.id == *id),
        None => lines.pop(),
    };
    found.map(Update::from).ok_or_else(|| match id {
        Some(id) => {
            Error::InvalidArgument(format!("there is no update {id}; 'kup history' shows those that there were"))
        }
        None => Error::Failed("there was no update yet".into()),
    })
}
