@storage @azure @backend-azure @disruptive
Feature: Registry storage on Azure
  OpenShift 4.4 and 4.6 registry documentation, sections 3.3.1 to 3.3.3.

  @STO-AZR-SECRET @kind-smoke
  Scenario: The account key of the documented secret is what the registry writes with
    Given the operator has bootstrapped itself as Removed
    And a container of an Azure storage account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_AZURE_ACCOUNTKEY=$ACCOUNTKEY --namespace openshift-image-registry
      """
    And the administrator configures the account and the container
    Then the operator reports that the storage exists
    And a registry pod becomes ready
    And the registry takes the account key from a secret
    When an image "stored" is pushed
    Then the container holds every blob of the image "stored"

  @STO-AZR-SECRET
  Scenario: A secret without the account key is reported by name
    Given the operator has bootstrapped itself as Removed
    And a container of an Azure storage account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=ACCOUNTKEY=$ACCOUNTKEY --namespace openshift-image-registry
      """
    And the administrator configures the account and the container
    Then the operator reports that the secret lacks the key "REGISTRY_STORAGE_AZURE_ACCOUNTKEY"

  @STO-AZR-MANUAL @STO-AZR-CLOUDNAME
  Scenario: An Azure container made by hand is configured by account and container
    Given the registry is Managed with Azure storage
    Then the operator reports that the storage exists
    And the registry is told the account and the container
    And an image can be pushed and pulled

  @STO-AZR-MANUAL
  Scenario: An Azure account without a container is reported
    Given the operator has bootstrapped itself as Removed
    And a container of an Azure storage account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_AZURE_ACCOUNTKEY=$ACCOUNTKEY --namespace openshift-image-registry
      """
    And the administrator configures the account alone
    Then the operator reports that the container is not specified

  @STO-AZR-MANUAL
  Scenario: An Azure container without an account is reported
    Given the operator has bootstrapped itself as Removed
    And a container of an Azure storage account
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_AZURE_ACCOUNTKEY=$ACCOUNTKEY --namespace openshift-image-registry
      """
    And the administrator configures the container alone
    Then the operator reports that the account is not specified

  @STO-AZR-GOV @STO-AZR-CLOUDNAME
  Scenario: In Azure Government the registry turns to that cloud's storage
    Given the operator has bootstrapped itself as Removed
    And a container of an Azure storage account in AzureUSGovernmentCloud
    When the administrator creates the credentials secret with
      """
      oc create secret generic image-registry-private-configuration-user --from-literal=REGISTRY_STORAGE_AZURE_ACCOUNTKEY=$ACCOUNTKEY --namespace openshift-image-registry
      """
    And the administrator configures the account, the container and the cloud AzureUSGovernmentCloud
    Then the registry is told the storage suffix of AzureUSGovernmentCloud
    And a registry pod becomes ready
    When an image "stored" is pushed
    Then the container holds every blob of the image "stored"
