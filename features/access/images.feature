@access @needs-managed-registry
Feature: Pulling, tagging and pushing images
  OpenShift 4.2 registry documentation, sections 1.1, 4.1 and 5.1; 4.3 and 4.4, section 5.2; 4.6, section 4.2.

  Background:
    Given the registry is Managed

  @ACC-PULL-TAG-PUSH @needs-free-image-name @kind-smoke
  Scenario: An image of another registry is pulled, tagged and pushed
    Given an image "name.io/image" in another registry
    When the image "name.io/image" is pulled
    And it is tagged and pushed as "image-registry.openshift-image-registry.svc:5000/openshift/image"
    Then the image stream "image" exists in project "openshift"
    And a fresh pull of "image-registry.openshift-image-registry.svc:5000/openshift/image" returns the pushed digest

  @ACC-PULL-TAG-PUSH @needs-free-image-name @needs-podman
  Scenario: podman pulls, tags and pushes
    Given an image "name.io/image" in another registry
    When the administrator runs
      """
      podman login -u kubeadmin -p $(oc whoami -t) image-registry.openshift-image-registry.svc:5000
      podman pull name.io/image
      podman tag name.io/image image-registry.openshift-image-registry.svc:5000/openshift/image
      podman push image-registry.openshift-image-registry.svc:5000/openshift/image
      """
    Then the command succeeds
    And the image stream "image" exists in project "openshift"

  @ACC-PULL-TAG-PUSH @needs-free-image-name @needs-skopeo
  Scenario: skopeo copies an image into the registry
    Given an image "name.io/image" in another registry
    When the administrator runs
      """
      skopeo copy --dest-creds kubeadmin:$(oc whoami -t) docker://name.io/image docker://image-registry.openshift-image-registry.svc:5000/openshift/image
      """
    Then the command succeeds
    And the image stream "image" exists in project "openshift"

  @ARC-METADATA-API
  Scenario: A pushed image is listed by the cluster's API
    Given an image "listed" in a project
    Then the image API lists the image "listed" by its digest
    And the project's image stream lists the image "listed" under its tag
