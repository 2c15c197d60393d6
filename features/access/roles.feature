@access @needs-managed-registry
Feature: Roles of users
  OpenShift 4.2 registry documentation, section 5; 4.3 and 4.4, section 5.1; 4.6, section 4.1.

  Background:
    Given the registry is Managed
    And an image "app" in a project
    And a user without any role

  @ACC-ROLE-VIEWER
  Scenario: registry-viewer lets a user pull
    Then the user cannot pull the image "app"
    When the administrator runs
      """
      oc policy add-role-to-user registry-viewer <user_name>
      """
    Then the command succeeds
    And the user can pull the image "app"
    And the user cannot push an image "mine"

  @ACC-ROLE-EDITOR @kind-smoke
  Scenario: registry-editor lets a user push
    When the administrator runs
      """
      oc policy add-role-to-user registry-viewer <user_name>
      """
    Then the command succeeds
    And the user cannot push an image "mine"
    And no image stream tag "mine" exists
    When the administrator runs
      """
      oc policy add-role-to-user registry-editor <user_name>
      """
    Then the command succeeds
    And the user can push an image "mine"
    And the image stream tag "mine" exists
