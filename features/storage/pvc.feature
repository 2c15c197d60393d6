@storage @pvc @disruptive @needs-free-claim-name
Feature: Registry storage on a persistent volume
  OpenShift 4.2 registry documentation, sections 3.3.1 and 3.4.1; 4.3 to 4.6, sections 3.3.4 and 3.4.4.

  @STO-PVC-CLAIM-BLANK @kind-smoke
  Scenario: A blank claim makes the operator create image-registry-storage
    Given the operator has bootstrapped itself as Removed
    When the administrator configures a persistent volume and leaves the claim blank
    Then the operator creates the claim "image-registry-storage"
    And the registry configuration names the claim "image-registry-storage"
    And a registry pod becomes ready

  @STO-PVC-CLAIM-BLANK
  Scenario: A foreign claim of that name is not adopted
    Given the operator has bootstrapped itself as Removed
    And somebody else's claim "image-registry-storage" exists
    When the administrator configures a persistent volume and leaves the claim blank
    Then the operator reports that the claim is not its own
