@access @needs-managed-registry
Feature: Logging in to the registry
  OpenShift 4.2 registry documentation, section 5.1; 4.3 and 4.4, section 5.2; 4.6, section 4.2.

  Background:
    Given the registry is Managed

  @ACC-LOGIN-TOKEN @kind-smoke
  Scenario: An access token logs in
    Then logging in as "kubeadmin" with the token of "oc whoami -t" succeeds
    But logging in as "kubeadmin" with a token that was never issued fails

  @ACC-LOGIN-TOKEN @needs-podman
  Scenario: podman logs in with an access token
    When the administrator runs
      """
      podman login -u kubeadmin -p $(oc whoami -t) image-registry.openshift-image-registry.svc:5000
      """
    Then the command succeeds
    And the command prints "Login Succeeded!"

  @ACC-LOGIN-COLON
  Scenario: A user name with a colon is refused
    Then logging in as "system:admin" with the token of "oc whoami -t" fails

  @ACC-LOGIN-COLON @needs-podman
  Scenario: podman is refused with a colon in the user name
    When the administrator runs
      """
      podman login -u system:admin -p $(oc whoami -t) image-registry.openshift-image-registry.svc:5000
      """
    Then the command fails
    And the command does not print "Login Succeeded!"
