//! ConfigMaps with one key a fact, which replicas change by merge patch
//! without ever overwriting each other's keys.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{ApiError, call};
use crate::keys::store::own_labels;
use crate::names::FIELD_MANAGER;

/// Merges `data` into the ConfigMap `name`, which is made if it is not there.
/// `data` is an object of texts; `null` removes a key.
///
/// # Errors
/// The API server did not do it.
pub async fn merge(api: &Api<ConfigMap>, name: &str, data: Value) -> Result<(), ApiError> {
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "data": data }));
    match call("change a ConfigMap", api.patch(name, &params, &patch)).await {
        Ok(_) => return Ok(()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    make(api, name).await?;
    call("change a ConfigMap", api.patch(name, &params, &patch))
        .await
        .map(drop)
}

/// Makes an empty ConfigMap, unless somebody else has.
///
/// # Errors
/// The API server did not do it.
pub async fn make(api: &Api<ConfigMap>, name: &str) -> Result<(), ApiError> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(own_labels()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::new()),
        ..ConfigMap::default()
    };
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match call("make a ConfigMap", api.create(&params, &map)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mock::{self, Answer};

    #[tokio::test]
    async fn one_that_is_not_there_is_made_even_when_two_race() {
        let (client, server) = mock::api();
        let api = Api::namespaced(client, "fairway-system");
        let path = "/api/v1/namespaces/fairway-system/configmaps";
        let served = server
            .expect(move |call| {
                assert_eq!(call.line(), format!("PATCH {path}/x"));
                Answer::status(404)
            })
            .expect(move |call| {
                assert_eq!(call.line(), format!("POST {path}"));
                Answer::status(409)
            })
            .expect(move |call| {
                assert_eq!(call.body, json!({"data": {"a": "b", "c": null}}));
                Answer::ok(json!({"metadata": {}}))
            });
        merge(&api, "x", json!({"a": "b", "c": null}))
            .await
            .unwrap();
        served.done().await;
    }
}
