// Sends all six calls with Segment's SDK for Node: URL, TOKEN.
import { Analytics } from "@segment/analytics-node";

const [host, writeKey] = process.argv.slice(2);
const analytics = new Analytics({ writeKey, host });
let failed;
analytics.on("error", (error) => {
  failed = error;
});
analytics.identify({
  userId: "jane",
  anonymousId: "v1",
  traits: { name: "Jane Roe", email: "jane@example.com" },
});
analytics.track({ userId: "jane", event: "Order Completed", properties: { total: 39.95 } });
analytics.page({ userId: "jane", name: "Pricing", properties: { path: "/pricing" } });
analytics.screen({ userId: "jane", name: "Cart" });
analytics.group({ userId: "jane", groupId: "acme", traits: { name: "Acme Inc." } });
analytics.alias({ userId: "jane", previousId: "jane.old" });
await analytics.closeAndFlush({ timeout: 20000 });
if (failed) {
  console.error("not sent:", failed);
  process.exit(1);
}
