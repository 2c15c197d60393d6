@storage @gcs @backend-gcs @disruptive
Feature: Registry storage on Google Cloud Storage
  OpenShift 4.2 to 4.6 registry documentation, sections 3.2.1 to 3.2.3.

  @STO-GCS-SECRET @kind-smoke
  Scenario: The credentials file of the documented secret is what the registry writes with
    Given the operator has bootstrapped itself as Removed
    And a bucket on a GCS server and the credentials file of a service account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-file=REGISTRY_STORAGE_GCS_KEYFILE=$KEYFILE --namespace openshift-image-registry
      """
    And the administrator configures the bucket
    Then the operator reports that the storage exists
    And a registry pod becomes ready
    And the registry finds the credentials file mounted as it was
    When an image "stored" is pushed
    Then the bucket holds every blob of the image "stored"

  @STO-GCS-SECRET
  Scenario: A secret without the credentials file is reported by name
    Given the operator has bootstrapped itself as Removed
    And a bucket on a GCS server and the credentials file of a service account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-file=KEYFILE=$KEYFILE --namespace openshift-image-registry
      """
    And the administrator configures the bucket
    Then the operator reports that the secret lacks the key "REGISTRY_STORAGE_GCS_KEYFILE"
    And there is no Deployment of the registry

  @STO-GCS-MANUAL
  Scenario: A GCS bucket made by hand is configured by its name
    Given the registry is Managed with GCS storage
    Then the operator reports that the storage exists
    And the registry is told the bucket
    And an image can be pushed and pulled

  @STO-GCS-MANUAL
  Scenario: Without credentials for GCS the status says so
    Given the operator has bootstrapped itself as Removed
    And a bucket on a GCS server and the credentials file of a service account
    When the administrator configures the bucket
    Then the operator reports that it has no credentials

  @STO-GCS-BUCKET
  Scenario: A GCS bucket that is not named is made under a generated name
    Given the operator has bootstrapped itself as Removed
    And a bucket on a GCS server and the credentials file of a service account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-file=REGISTRY_STORAGE_GCS_KEYFILE=$KEYFILE --namespace openshift-image-registry
      """
    And the administrator configures a region and a project but no bucket
    Then the operator chooses a name for the bucket and makes it
