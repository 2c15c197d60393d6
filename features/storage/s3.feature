@storage @s3 @backend-s3 @disruptive
Feature: Registry storage on S3
  OpenShift 4.2 to 4.6 registry documentation, sections 3.1.1 and 3.1.2.

  @STO-S3-SECRET @kind-smoke
  Scenario: The credentials of the documented secret are what the registry writes with
    Given the operator has bootstrapped itself as Removed
    And a bucket on an S3 server
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_S3_ACCESSKEY=$ACCESSKEY --from-literal=REGISTRY_STORAGE_S3_SECRETKEY=$SECRETKEY --namespace openshift-image-registry
      """
    And the administrator configures the bucket and its region
    Then the operator reports that the storage exists
    And a registry pod becomes ready
    When an image "stored" is pushed
    Then the bucket holds every blob of the image "stored"

  @STO-S3-SECRET
  Scenario: A secret without the secret key is reported by name
    Given the operator has bootstrapped itself as Removed
    And a bucket on an S3 server
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_S3_ACCESSKEY=$ACCESSKEY --namespace openshift-image-registry
      """
    And the administrator configures the bucket and its region
    Then the operator reports that the secret lacks the key "REGISTRY_STORAGE_S3_SECRETKEY"
    And there is no Deployment of the registry

  @STO-S3-SECRET
  Scenario: Wrong credentials do not give a registry
    Given the operator has bootstrapped itself as Removed
    And a bucket on an S3 server
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_S3_ACCESSKEY=$ACCESSKEY --from-literal=REGISTRY_STORAGE_S3_SECRETKEY=not-the-secret-key --namespace openshift-image-registry
      """
    And the administrator configures the bucket and its region
    Then the operator does not report that the storage exists

  @STO-S3-MANUAL
  Scenario: A bucket made by hand is configured by bucket and region
    Given the registry is Managed with S3 storage
    Then the operator reports that the storage exists
    And the registry is told the bucket and its region
    And an image can be pushed and pulled
