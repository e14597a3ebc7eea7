//! One connection over standard input and output, for ssh's ProxyCommand.

use std::io;

use qnet_wire::target::{Request, Target};
use tokio::io::{AsyncWriteExt as _, copy, split, stdin, stdout};

use crate::front::Service;

/// Carries it until the far end has ended; this end's end is passed on before.
pub(crate) async fn carry(service: &Service, target: Target) -> Result<(), String> {
    let request = Request::Tcp(target);
    let mut far = service.open(Some(&request)).await.map_err(|error| error.to_string())?;
    let (mut from_far, mut to_far) = split(far.stream());
    let up = async {
        let sent = async {
            copy(&mut stdin(), &mut to_far).await?;
            to_far.shutdown().await
        };
        if let Err(error) = sent.await {
            tracing::debug!("nothing more can be sent: {error}");
        }
        // The far end may still have something to say.
        std::future::pending::<io::Result<u64>>().await
    };
    let down = async {
        let mut out = stdout();
        let count = copy(&mut from_far, &mut out).await?;
        out.flush().await?;
        Ok(count)
    };
    let done = tokio::select! {
        done = down => done,
        done = up => done,
    };
    done.map(drop).map_err(|error| format!("the connection broke: {error}"))
}
