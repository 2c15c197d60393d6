@access
Feature: Reading the registry's log
  OpenShift 4.2 registry documentation, section 5.3; 4.3 and 4.4, section 5.4; 4.6, section 4.4.

  @ACC-LOGS @needs-managed-registry
  Scenario: The log shows what the registry did
    Given the registry is Managed
    And an image "logged" in a project
    When the administrator runs
      """
      oc logs deployments/image-registry -n openshift-image-registry
      """
    Then the command succeeds
    And the command prints log lines with time, level, msg and instance.id
    And the log tells of the push of the image "logged"

  @ACC-LOGS @disruptive
  Scenario: There is no log without a registry
    Given the operator has bootstrapped itself as Removed
    When the administrator runs
      """
      oc logs deployments/image-registry -n openshift-image-registry
      """
    Then the command fails and prints "(NotFound)"
