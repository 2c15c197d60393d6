@exposing @disruptive @needs-routes
Feature: Exposing the registry
  OpenShift 4.2 to 4.4 registry documentation, sections 2.2 and 6; 4.6, section 5.

  @EXP-NOT-EXPOSED
  Scenario: The registry is not reachable from outside by default
    Given the registry is Managed with emptyDir storage
    Then there is no route to the registry
    And the cluster's image configuration names no external registry
    And a client outside the cluster gets no answer from the default route's host

  @EXP-DEFAULTROUTE-PATCH
  Scenario: defaultRoute makes a route that is admitted
    Given the registry is Managed with emptyDir storage
    When the administrator runs
      """
      oc patch configs.imageregistry.operator.openshift.io/cluster --patch '{"spec":{"defaultRoute":true}}' --type=merge
      """
    Then the command succeeds
    And the route "default-route" is admitted

  @EXP-DEFAULTROUTE-LOGIN @kind-smoke
  Scenario: A user logs in over the default route
    Given the registry is Managed with emptyDir storage
    And the default route is exposed
    When the administrator runs
      """
      HOST=$(oc get route default-route -n openshift-image-registry --template='{{ .spec.host }}'); echo $HOST
      """
    Then the command prints the host of the route "default-route"
    And logging in there as "kubeadmin" without verifying the certificate succeeds
    But logging in there with a token that was never issued fails

  @EXP-DEFAULTROUTE-LOGIN @needs-podman
  Scenario: podman logs in over the default route
    Given the registry is Managed with emptyDir storage
    And the default route is exposed
    When the administrator runs
      """
      HOST=$(oc get route default-route -n openshift-image-registry --template='{{ .spec.host }}')
      podman login -u kubeadmin -p $(oc whoami -t) --tls-verify=false $HOST
      """
    Then the command succeeds
    And the command prints "Login Succeeded!"
