import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Shows each image's tags and caption, as an indexer would store them, until Ctrl-C or for so many messages.
 *
 * <pre>TAGSTREAM_KAFKA_SERVERS=kafka:9092 java -cp 'kafka/libs/*' Consume.java [MESSAGES]</pre>
 *
 * A JDK of 17 or newer, and the jars of any Kafka. isolation.level=read_committed leaves out what was never committed.
 * What is older than what was shown before is passed over, by version: schemas/README.md has the whole rule.
 */
public class Consume {
    public static void main(String[] arguments) throws Exception {
        int left = arguments.length > 0 ? Integer.parseInt(arguments[0]) : Integer.MAX_VALUE;
        Properties settings = new Properties();
        settings.put("bootstrap.servers", System.getenv("TAGSTREAM_KAFKA_SERVERS"));
        settings.put("group.id", System.getenv().getOrDefault("GROUP", "my-indexer"));
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        ObjectMapper json = new ObjectMapper();
        Map<String, Long> newest = new HashMap<>();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(System.getenv().getOrDefault("TOPIC", "images.enriched")));
            while (left > 0) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofSeconds(1));
                for (ConsumerRecord<String, String> record : records) {
                    if (record.value() == null) {
                        continue; // a tombstone, behind the retraction that said it
                    }
                    JsonNode output = json.readTree(record.value());
                    String line = line(output);
                    if (line != null && isNewest(output, newest)) {
                        System.out.println(line); // an indexer writes here, and commits only then
                    }
                }
                left -= records.count();
                consumer.commitSync();
            }
        }
    }

    /** What to show of a message; null for kinds that this program does not know. */
    static String line(JsonNode output) {
        String subject = output.path("subject").asText();
        return switch (output.path("schema").asText().split("/")[0]) {
            case "enriched-image" -> subject + "\t" + tags(output.path("tags")) + "\t"
                    + output.path("caption").path("text").asText();
            case "image-retraction" -> subject + "\tremoved"
                    + (output.path("scope").asText().equals("version") ? " in one version" : "");
            default -> null;
        };
    }

    /**
     * Whether nothing newer came before it.
     *
     * @param newest the greatest version of each document; an index keeps it there, also once the document is gone
     */
    static boolean isNewest(JsonNode output, Map<String, Long> newest) {
        String key = output.path("document_id").asText(output.path("subject").asText());
        long version = output.path("version").asLong(0);
        long known = newest.getOrDefault(key, 0L);
        newest.merge(key, version, Math::max);
        if (output.has("image")) { // the version of the object that it was made of may be gone
            JsonNode source = output.path("source");
            String madeOf = URLEncoder.encode(source.path("version_id").asText("null"), StandardCharsets.UTF_8);
            String removal = source.path("bucket").asText() + "?versionId=" + madeOf + "/" + source.path("key").asText();
            known = Math.max(known, newest.getOrDefault(removal, 0L));
        }
        return version >= known;
    }

    static String tags(JsonNode tags) {
        List<String> shown = new ArrayList<>();
        for (JsonNode tag : tags) {
            shown.add(String.format(
                    Locale.ROOT, "%s %.2f", tag.path("name").asText(), tag.path("score").asDouble()));
        }
        return String.join(", ", shown);
    }
}
