@mirroring
Feature: Converting ImageContentSourcePolicy files
  OpenShift 4.16 images documentation, section 9.3.2.

  @ICS-CONVERT-CHANGES
  Scenario: The conversion changes version, kind and the name of the mirrors, and nothing else
    Given the file "icsp.yaml"
      """
      apiVersion: operator.openshift.io/v1alpha1
      kind: ImageContentSourcePolicy
      metadata:
        name: mirror-ocp
        labels:
          team: registry
        annotations:
          note: kept
      spec:
        repositoryDigestMirrors:
        - mirrors:
          - mirror.registry.com:443/ocp/release
          - second.registry.com/ocp/release
          source: quay.io/openshift-release-dev/ocp-release
        - mirrors:
          - mirror.registry.com:443/ocp/release
          source: quay.io/openshift-release-dev/ocp-v4.0-art-dev
      """
    When the administrator runs
      """
      oc adm migrate icsp icsp.yaml --dest-dir idms-files
      """
    Then the command succeeds
    And the folder "idms-files" holds one file that is
      """
      apiVersion: config.openshift.io/v1
      kind: ImageDigestMirrorSet
      metadata:
        name: mirror-ocp
        labels:
          team: registry
        annotations:
          note: kept
      spec:
        imageDigestMirrors:
        - mirrors:
          - mirror.registry.com:443/ocp/release
          - second.registry.com/ocp/release
          source: quay.io/openshift-release-dev/ocp-release
        - mirrors:
          - mirror.registry.com:443/ocp/release
          source: quay.io/openshift-release-dev/ocp-v4.0-art-dev
      """
