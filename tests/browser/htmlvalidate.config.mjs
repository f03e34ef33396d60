// How the pages' HTML is judged: by all that the validator recommends, but for matters of taste.
export default {
  root: true,
  extends: ["html-validate:recommended", "html-validate:a11y", "html-validate:document"],
  rules: {
    "doctype-style": ["error", { style: "lowercase" }],
    // A button in a form sends it, unless it says otherwise: that is what a button in a form is for.
    "no-implicit-button-type": "off",
    // Style and script come from the same server as the page: who can change the one can change the other.
    "require-sri": ["error", { target: "crossorigin" }],
  },
};
